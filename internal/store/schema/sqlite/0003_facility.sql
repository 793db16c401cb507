-- +goose Up
-- FDS items of providers without a back end of their own. Every row belongs
-- to one provider and one owner, event specifications too: no row is shared,
-- so no answer can cross owners. entity and key together say what makes an
-- item of a kind the same item; for the kinds of which only the latest counts
-- key is empty. seq is the order of first arrival and never changes, so that
-- a long answer can be read in pieces without seeing an item twice.
CREATE TABLE items (
  seq      INTEGER PRIMARY KEY,
  provider TEXT NOT NULL REFERENCES providers (id),
  owner    TEXT NOT NULL REFERENCES owners (id),
  kind     TEXT NOT NULL,
  entity   TEXT NOT NULL, -- device, space or message code that "ids" selects by
  key      TEXT NOT NULL,
  body     BLOB NOT NULL -- the bytes as they arrived
) STRICT;
CREATE UNIQUE INDEX items_by_entity ON items (provider, owner, kind, entity, key);
CREATE INDEX items_by_order ON items (provider, owner, kind, seq);

-- Tags, which apps make. entities is a JSON array of strings.
CREATE TABLE tags (
  seq          INTEGER PRIMARY KEY,
  subscription TEXT NOT NULL REFERENCES subscriptions (id),
  id           TEXT NOT NULL,
  body         BLOB NOT NULL, -- the object as the app sent it, without ID and entities
  entities     TEXT NOT NULL DEFAULT '[]',
  created      INTEGER NOT NULL,
  UNIQUE (subscription, id)
) STRICT;
