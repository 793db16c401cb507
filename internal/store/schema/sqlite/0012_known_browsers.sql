-- +goose Up
-- Browsers in which a user has signed in: strangers who fail in the user's
-- name do not lock them.
CREATE TABLE known_browsers (
  browser BLOB NOT NULL, -- SHA-256 of its cookie
  user_id TEXT NOT NULL REFERENCES users (id),
  last    INTEGER NOT NULL, -- sign-in
  PRIMARY KEY (browser, user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX known_browsers_by_user ON known_browsers (user_id, last);
