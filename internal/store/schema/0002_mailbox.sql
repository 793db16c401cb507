-- +goose Up
-- Pushes. One ordered queue per subscription; seq counts within it and never
-- repeats, also after the queue was emptied.
CREATE TABLE mailboxes (
  subscription TEXT PRIMARY KEY REFERENCES subscriptions (id),
  next_seq     INTEGER NOT NULL DEFAULT 1
) STRICT;

CREATE TABLE messages (
  subscription TEXT NOT NULL REFERENCES mailboxes (subscription),
  seq          INTEGER NOT NULL,
  level        TEXT NOT NULL, -- topic levels after the subscription ID
  payload      BLOB NOT NULL,
  at           INTEGER NOT NULL,
  PRIMARY KEY (subscription, seq)
) STRICT, WITHOUT ROWID;

-- A consumer of a mailbox ("mqtt" or "webhook") and the last message it has
-- acknowledged.
CREATE TABLE cursors (
  subscription TEXT NOT NULL REFERENCES mailboxes (subscription),
  consumer     TEXT NOT NULL,
  acked        INTEGER NOT NULL,
  PRIMARY KEY (subscription, consumer)
) STRICT, WITHOUT ROWID;

-- Filters of an MQTT session that outlives its connection.
CREATE TABLE mqtt_filters (
  subscription TEXT NOT NULL REFERENCES mailboxes (subscription),
  filter       TEXT NOT NULL,
  qos          INTEGER NOT NULL,
  PRIMARY KEY (subscription, filter)
) STRICT, WITHOUT ROWID;
