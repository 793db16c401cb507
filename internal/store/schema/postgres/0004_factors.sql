-- +goose Up
-- The tables of schema/sqlite/0004_factors.sql, which explains them.

ALTER TABLE owners ADD COLUMN factor TEXT NOT NULL DEFAULT 'optional';
ALTER TABLE users ADD COLUMN renewed BIGINT NOT NULL DEFAULT 0;

CREATE TABLE totps (
  user_id   TEXT PRIMARY KEY REFERENCES users (id),
  secret    BYTEA NOT NULL,
  confirmed BIGINT NOT NULL DEFAULT 0,
  last_step BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE recovery_codes (
  hash    BYTEA PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES users (id)
);
CREATE INDEX recovery_codes_by_user ON recovery_codes (user_id);

CREATE TABLE passkeys (
  id         BYTEA PRIMARY KEY,
  user_id    TEXT NOT NULL REFERENCES users (id),
  name       TEXT NOT NULL,
  public_key BYTEA NOT NULL,
  synced     BIGINT NOT NULL,
  transports TEXT NOT NULL,
  sign_count BIGINT NOT NULL,
  created    BIGINT NOT NULL,
  used       BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX passkeys_by_user ON passkeys (user_id);

CREATE TABLE sign_in_events (
  user_id TEXT NOT NULL REFERENCES users (id),
  seq     BIGINT NOT NULL,
  PRIMARY KEY (user_id, seq)
);
