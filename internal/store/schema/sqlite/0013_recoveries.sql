-- +goose Up
-- Codes with which users set a password that they have forgotten, one each.
CREATE TABLE recoveries (
  user_id TEXT PRIMARY KEY REFERENCES users (id),
  hash    BLOB NOT NULL,
  expires INTEGER NOT NULL
) STRICT;
