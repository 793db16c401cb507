-- +goose Up
-- The table of schema/sqlite/0012_known_browsers.sql, which explains it.
CREATE TABLE known_browsers (
  browser BYTEA NOT NULL,
  user_id TEXT NOT NULL REFERENCES users (id),
  last    BIGINT NOT NULL,
  PRIMARY KEY (browser, user_id)
);
CREATE INDEX known_browsers_by_user ON known_browsers (user_id, last);
