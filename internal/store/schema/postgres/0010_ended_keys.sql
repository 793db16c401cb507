-- +goose Up
-- Signing keys that were retired before their time: no token is
-- taken that they signed, however long ago that was.
CREATE TABLE ended_keys (
  kid   TEXT PRIMARY KEY,
  ended BIGINT NOT NULL
);
