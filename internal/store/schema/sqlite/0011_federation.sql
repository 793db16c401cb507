-- +goose Up
-- OpenID providers of owners, at which their users sign in. The client secret
-- is sealed under the key keys/factors of the data folder, because it has to
-- be shown to the provider.
CREATE TABLE identity_providers (
  owner         TEXT PRIMARY KEY REFERENCES owners (id),
  issuer        TEXT NOT NULL,
  client_id     TEXT NOT NULL,
  secret        BLOB NOT NULL, -- sealed
  scopes        TEXT NOT NULL, -- JSON array, beside openid
  hosts         TEXT NOT NULL, -- JSON array, beside the issuer's
  name          TEXT NOT NULL,
  trust_factors INTEGER NOT NULL,
  set_at        INTEGER NOT NULL
) STRICT;

-- Who a user is at the provider of the owner; the issuer stands here too, so
-- that another provider of the owner cannot name the user.
ALTER TABLE users ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN subject TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX users_by_subject ON users (owner, issuer, subject) WHERE subject <> '';
