-- +goose Up
-- The tables of schema/sqlite/0011_federation.sql, which explains them.
CREATE TABLE identity_providers (
  owner         TEXT PRIMARY KEY REFERENCES owners (id),
  issuer        TEXT NOT NULL,
  client_id     TEXT NOT NULL,
  secret        BYTEA NOT NULL,
  scopes        TEXT NOT NULL,
  hosts         TEXT NOT NULL,
  name          TEXT NOT NULL,
  trust_factors BIGINT NOT NULL,
  set_at        BIGINT NOT NULL
);

ALTER TABLE users ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN subject TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX users_by_subject ON users (owner, issuer, subject) WHERE subject <> '';
