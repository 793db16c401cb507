-- +goose Up
-- Every change of the schema goes into this folder and into schema/postgres,
-- under the same number; a test compares the two. INTEGER here is BIGINT
-- there, BLOB is BYTEA.

-- Rights. Times are Unix microseconds; 0 means "not". Identifiers are
-- canonical UUIDs. Secrets, codes and refresh tokens stand here only as
-- SHA-256 hashes, passwords as argon2id.

CREATE TABLE providers (
  id      TEXT PRIMARY KEY,
  name    TEXT NOT NULL,
  created INTEGER NOT NULL,
  cut     INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE owners (
  id      TEXT PRIMARY KEY,
  key     TEXT NOT NULL UNIQUE,
  name    TEXT NOT NULL,
  created INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
  id       TEXT PRIMARY KEY,
  owner    TEXT NOT NULL REFERENCES owners (id),
  login    TEXT NOT NULL UNIQUE,
  password TEXT NOT NULL,
  created  INTEGER NOT NULL,
  disabled INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE apps (
  id             TEXT PRIMARY KEY,
  name           TEXT NOT NULL,
  profile        TEXT NOT NULL,
  grants         TEXT NOT NULL, -- JSON array
  authentication TEXT NOT NULL,
  keys           TEXT NOT NULL, -- JSON array of public JWKs
  pinned_pem     TEXT NOT NULL, -- authority that may vouch for the app; empty: none but ours
  pinned_subject TEXT NOT NULL,
  pinned_lists   TEXT NOT NULL, -- its revocation lists; empty: none are read
  redirect_uris  TEXT NOT NULL, -- JSON array
  pushed_only    INTEGER NOT NULL,
  created        INTEGER NOT NULL,
  cut            INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE resource_servers (
  id      TEXT PRIMARY KEY,
  name    TEXT NOT NULL,
  created INTEGER NOT NULL
) STRICT;

CREATE TABLE secrets (
  seq     INTEGER PRIMARY KEY, -- in the order of issue
  hash    BLOB NOT NULL UNIQUE,
  client  TEXT NOT NULL, -- ID of an app, provider or resource server
  created INTEGER NOT NULL,
  retired INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE agreements (
  id       TEXT PRIMARY KEY,
  provider TEXT NOT NULL REFERENCES providers (id),
  owner    TEXT NOT NULL REFERENCES owners (id),
  purpose  TEXT NOT NULL,
  starts   INTEGER NOT NULL,
  ends     INTEGER NOT NULL DEFAULT 0,
  created  INTEGER NOT NULL,
  cut      INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE consents (
  id        TEXT PRIMARY KEY,
  agreement TEXT NOT NULL REFERENCES agreements (id),
  app       TEXT NOT NULL REFERENCES apps (id),
  scope     TEXT NOT NULL, -- JSON array of kinds; empty: all
  given_by  TEXT NOT NULL, -- user ID; empty: recorded by the administrator
  given     INTEGER NOT NULL,
  expires   INTEGER NOT NULL DEFAULT 0,
  cut       INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE subscriptions (
  id        TEXT PRIMARY KEY,
  consent   TEXT NOT NULL REFERENCES consents (id),
  agreement TEXT NOT NULL REFERENCES agreements (id),
  provider  TEXT NOT NULL REFERENCES providers (id),
  owner     TEXT NOT NULL REFERENCES owners (id),
  app       TEXT NOT NULL REFERENCES apps (id),
  created   INTEGER NOT NULL,
  cut       INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX subscriptions_by_agreement ON subscriptions (agreement);

CREATE TABLE certificates (
  serial     TEXT PRIMARY KEY, -- or thumbprint, of one that was not issued here
  thumbprint BLOB NOT NULL UNIQUE,
  origin     TEXT NOT NULL, -- empty: issued here
  use        TEXT NOT NULL,
  subject    TEXT NOT NULL,
  not_before INTEGER NOT NULL,
  not_after  INTEGER NOT NULL,
  issued     INTEGER NOT NULL,
  revoked    INTEGER NOT NULL DEFAULT 0,
  pem        TEXT NOT NULL
) STRICT;
CREATE INDEX certificates_by_subject ON certificates (subject);

CREATE TABLE webhooks (
  id           TEXT PRIMARY KEY,
  subscription TEXT NOT NULL REFERENCES subscriptions (id),
  url          TEXT NOT NULL,
  issuer       TEXT NOT NULL, -- the receiver's authorization server
  client       TEXT NOT NULL, -- our client ID there; its secret or key is a file
  created      INTEGER NOT NULL,
  ended        INTEGER NOT NULL DEFAULT 0
) STRICT;

-- OAuth2 grants: the family of tokens of one authorization. body is the
-- library's record without codes and tokens; version makes every change
-- compare-and-swap.
CREATE TABLE grants (
  id           TEXT PRIMARY KEY,
  client       TEXT NOT NULL,
  subscription TEXT NOT NULL DEFAULT '',
  version      INTEGER NOT NULL,
  body         BLOB NOT NULL,
  code_hash    BLOB UNIQUE,
  refresh_hash BLOB UNIQUE,
  sealed       BLOB, -- refresh token in force, sealed under what it was given for: the code until redemption, then the token before
  created      INTEGER NOT NULL,
  ended        INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX grants_by_subscription ON grants (subscription);
CREATE INDEX grants_by_client ON grants (client);
CREATE INDEX grants_by_ended ON grants (ended);
CREATE INDEX grants_without_refresh ON grants (created) WHERE refresh_hash IS NULL AND ended = 0;

-- Refresh tokens that were rotated away: seeing one again is theft or a lost answer.
CREATE TABLE used_refresh_tokens (
  hash     BLOB PRIMARY KEY,
  grant_id TEXT NOT NULL REFERENCES grants (id),
  used     INTEGER NOT NULL
) STRICT;
CREATE INDEX used_refresh_tokens_by_grant ON used_refresh_tokens (grant_id, used);

-- Sign-in and consent in progress at the authorization server. A finished
-- session stays until it expires, so that its page cannot be posted again.
CREATE TABLE sessions (
  id      BLOB PRIMARY KEY, -- SHA-256 of the authorization session's ID
  client  TEXT NOT NULL,    -- ID of the app that asked
  version INTEGER NOT NULL,
  body    BLOB NOT NULL,    -- the library's record without the ID
  pending INTEGER NOT NULL,
  expires INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_by_expires ON sessions (expires);
CREATE INDEX sessions_by_client ON sessions (client);

-- Identifiers of client assertions and proofs that may not be used twice.
CREATE TABLE jtis (
  hash    BLOB PRIMARY KEY,
  expires INTEGER NOT NULL
) STRICT;
CREATE INDEX jtis_by_expires ON jtis (expires);

CREATE TABLE receipts (
  id     TEXT PRIMARY KEY,
  at     INTEGER NOT NULL,
  body   TEXT NOT NULL, -- JSON of keyholder.Cut
  signed TEXT NOT NULL DEFAULT ''
) STRICT;

-- The audit trail: hash is SHA-256 over the row and the hash before it.
CREATE TABLE audit (
  seq     INTEGER PRIMARY KEY,
  at      INTEGER NOT NULL,
  kind    TEXT NOT NULL,
  actor   TEXT NOT NULL,
  subject TEXT NOT NULL,
  detail  TEXT NOT NULL, -- JSON object
  hash    BLOB NOT NULL
) STRICT;
-- +goose StatementBegin
CREATE TRIGGER audit_is_append_only_update BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
-- +goose StatementEnd
