-- +goose Up
-- FDS items of providers without a back end of their own. One row per
-- provider, owner, kind and key; for statuses the latest, for events each.
CREATE TABLE items (
  provider TEXT NOT NULL REFERENCES providers (id),
  owner    TEXT NOT NULL REFERENCES owners (id),
  kind     TEXT NOT NULL,
  key      TEXT NOT NULL, -- what makes an item of the kind the same item
  entity   TEXT NOT NULL, -- device, space or message code that "ids" selects by
  seq      INTEGER NOT NULL, -- order of arrival
  body     BLOB NOT NULL,
  PRIMARY KEY (provider, owner, kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX items_by_order ON items (provider, owner, kind, seq);

CREATE TABLE tags (
  subscription TEXT NOT NULL REFERENCES subscriptions (id),
  id           TEXT NOT NULL,
  body         BLOB NOT NULL,
  entities     TEXT NOT NULL DEFAULT '[]',
  created      INTEGER NOT NULL,
  PRIMARY KEY (subscription, id)
) STRICT, WITHOUT ROWID;
