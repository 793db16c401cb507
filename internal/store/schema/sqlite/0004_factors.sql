-- +goose Up
-- Second factors of users. Recovery codes stand here only as hashes; the
-- secret of an authenticator app is sealed under the key keys/factors of the
-- data folder, because codes are computed from it.
ALTER TABLE owners ADD COLUMN factor TEXT NOT NULL DEFAULT 'optional';
ALTER TABLE users ADD COLUMN renewed INTEGER NOT NULL DEFAULT 0; -- when the password was last replaced

CREATE TABLE totps (
  user_id   TEXT PRIMARY KEY REFERENCES users (id),
  secret    BLOB NOT NULL,              -- sealed
  confirmed INTEGER NOT NULL DEFAULT 0, -- 0 until a first code has shown that the app has the secret
  last_step INTEGER NOT NULL DEFAULT 0  -- time step of the last code that was accepted
) STRICT;

CREATE TABLE recovery_codes (
  hash    BLOB PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES users (id)
) STRICT;
CREATE INDEX recovery_codes_by_user ON recovery_codes (user_id);

CREATE TABLE passkeys (
  id         BLOB PRIMARY KEY, -- credential ID, chosen by the authenticator
  user_id    TEXT NOT NULL REFERENCES users (id),
  name       TEXT NOT NULL,
  public_key BLOB NOT NULL,    -- COSE
  synced     INTEGER NOT NULL, -- 1: its maker copies it between devices
  transports TEXT NOT NULL,    -- JSON array, for the browser
  sign_count INTEGER NOT NULL,
  created    INTEGER NOT NULL,
  used       INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX passkeys_by_user ON passkeys (user_id);

-- The rows of the audit trail about a user's sign-in, which the account page shows.
CREATE TABLE sign_in_events (
  user_id TEXT NOT NULL REFERENCES users (id),
  seq     INTEGER NOT NULL,
  PRIMARY KEY (user_id, seq)
) STRICT, WITHOUT ROWID;
