-- +goose Up
-- Pushes. One ordered queue per subscription; seq counts within it and never
-- repeats, also after the queue was emptied. messages and bytes say what the
-- queue holds now, so that its bounds cost no scan.
CREATE TABLE mailboxes (
  subscription TEXT PRIMARY KEY REFERENCES subscriptions (id),
  next_seq     INTEGER NOT NULL DEFAULT 1,
  messages     INTEGER NOT NULL DEFAULT 0,
  bytes        INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE messages (
  subscription TEXT NOT NULL REFERENCES mailboxes (subscription),
  seq          INTEGER NOT NULL,
  level        TEXT NOT NULL, -- topic levels after the subscription ID
  payload      BLOB NOT NULL,
  at           INTEGER NOT NULL,
  sum          INTEGER NOT NULL, -- CRC-32C of all of it
  PRIMARY KEY (subscription, seq)
) STRICT; -- with rowid: payloads are too large for the nodes of an index

-- A consumer of a mailbox ("mqtt" or "webhook") and the last message up to
-- which it has acknowledged all.
CREATE TABLE cursors (
  subscription TEXT NOT NULL REFERENCES mailboxes (subscription),
  consumer     TEXT NOT NULL,
  acked        INTEGER NOT NULL,
  PRIMARY KEY (subscription, consumer)
) STRICT, WITHOUT ROWID;

-- MQTT sessions that outlive their connection, and their filters. The queue
-- is not part of them: it belongs to the subscription.
CREATE TABLE mqtt_sessions (
  subscription TEXT PRIMARY KEY REFERENCES subscriptions (id),
  lifetime     INTEGER NOT NULL, -- seconds after the connection ends
  expires      INTEGER NOT NULL DEFAULT 0 -- 0 while connected
) STRICT;

CREATE TABLE mqtt_filters (
  subscription TEXT NOT NULL REFERENCES mqtt_sessions (subscription) ON DELETE CASCADE,
  filter       TEXT NOT NULL,
  qos          INTEGER NOT NULL,
  identifier   INTEGER NOT NULL DEFAULT 0, -- MQTT 5 subscription identifier
  PRIMARY KEY (subscription, filter)
) STRICT, WITHOUT ROWID;

-- Whether a subscription has a webhook decides what may be deleted.
CREATE INDEX webhooks_by_subscription ON webhooks (subscription) WHERE ended = 0;

-- A cut takes the queue in its own transaction; this keeps what only counts
-- or remembers from outliving it.
-- +goose StatementBegin
CREATE TRIGGER mailbox_ends AFTER UPDATE OF cut ON subscriptions WHEN NEW.cut <> 0
BEGIN
  DELETE FROM mqtt_sessions WHERE subscription = NEW.id;
  UPDATE mailboxes SET messages = 0, bytes = 0 WHERE subscription = NEW.id;
END;
-- +goose StatementEnd
