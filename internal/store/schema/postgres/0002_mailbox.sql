-- +goose Up
-- The tables of schema/sqlite/0002_mailbox.sql, which explains them. Every change
-- goes into both folders; a test compares them.

CREATE TABLE mailboxes (
  subscription TEXT PRIMARY KEY REFERENCES subscriptions (id),
  next_seq     BIGINT NOT NULL DEFAULT 1,
  messages     BIGINT NOT NULL DEFAULT 0,
  bytes        BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE messages (
  subscription TEXT NOT NULL REFERENCES mailboxes (subscription),
  seq          BIGINT NOT NULL,
  level        TEXT NOT NULL,
  payload      BYTEA NOT NULL,
  at           BIGINT NOT NULL,
  sum          BIGINT NOT NULL,
  PRIMARY KEY (subscription, seq)
);

CREATE TABLE cursors (
  subscription TEXT NOT NULL REFERENCES mailboxes (subscription),
  consumer     TEXT NOT NULL,
  acked        BIGINT NOT NULL,
  PRIMARY KEY (subscription, consumer)
);

CREATE TABLE mqtt_sessions (
  subscription TEXT PRIMARY KEY REFERENCES subscriptions (id),
  lifetime     BIGINT NOT NULL,
  expires      BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE mqtt_filters (
  subscription TEXT NOT NULL REFERENCES mqtt_sessions (subscription) ON DELETE CASCADE,
  filter       TEXT NOT NULL,
  qos          BIGINT NOT NULL,
  identifier   BIGINT NOT NULL DEFAULT 0,
  PRIMARY KEY (subscription, filter)
);

CREATE INDEX webhooks_by_subscription ON webhooks (subscription) WHERE ended = 0;

-- +goose StatementBegin
CREATE FUNCTION mailbox_ends() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM mqtt_sessions WHERE subscription = NEW.id;
  UPDATE mailboxes SET messages = 0, bytes = 0 WHERE subscription = NEW.id;
  RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER mailbox_ends AFTER UPDATE OF cut ON subscriptions
FOR EACH ROW WHEN (NEW.cut <> 0) EXECUTE FUNCTION mailbox_ends();
