-- +goose Up
-- The table of schema/sqlite/0013_recoveries.sql, which explains it.
CREATE TABLE recoveries (
  user_id TEXT PRIMARY KEY REFERENCES users (id),
  hash    BYTEA NOT NULL,
  expires BIGINT NOT NULL
);
