package store_test

import (
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder/internal/store"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

// Ensure that both folders of the schema make the same tables, columns, keys
// and indexes.
func TestSchemasAgree(t *testing.T) {
	storetest.PostgresOnly(t)
	dsn := storetest.NewDSN(t, storetest.Postgres(t))
	postgres, err := store.OpenPostgres(t.Context(), dsn, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer postgres.Close()
	sqlite, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "keyholder.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer sqlite.Close()
	got, want := describe(t, postgres.Read(), postgresSchema), describe(t, sqlite.Read(), sqliteSchema)
	if len(want) < 150 {
		t.Errorf("only %d parts of the schema were found", len(want))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("schema/sqlite (-) and schema/postgres (+) differ; every change goes into both:\n%s", diff)
	}
}

// Queries that list a schema in one form: table, column, type, whether it can
// be NULL, default, place in the primary key; and the indexes with what they
// hold.
const (
	sqliteSchema = `SELECT m.name || ' ' || c.name || ' ' || c.type || ' ' || (c."notnull" OR c.pk > 0) || ' ' || coalesce(c.dflt_value, '') || ' ' || c.pk
		FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'
		UNION ALL SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL
		UNION ALL SELECT m.name || ' unique ' || group_concat(c.name, ' ')
			FROM sqlite_master m JOIN pragma_index_list(m.name) i JOIN pragma_index_info(i.name) c WHERE m.type = 'table' AND i.origin = 'u' GROUP BY m.name, i.name
		UNION ALL SELECT m.name || ' refers ' || f."from" || ' ' || f."table" || ' ' || f."to" || ' ' || f.on_delete
			FROM sqlite_master m JOIN pragma_foreign_key_list(m.name) f WHERE m.type = 'table'`
	postgresSchema = `SELECT c.table_name || ' ' || c.column_name || ' ' || c.data_type || ' ' || (c.is_nullable = 'NO')::int || ' ' || coalesce(c.column_default, '') || ' ' ||
			coalesce((SELECT k.ordinal_position FROM information_schema.key_column_usage k JOIN information_schema.table_constraints t USING (constraint_name, table_name)
				WHERE t.constraint_type = 'PRIMARY KEY' AND k.table_name = c.table_name AND k.column_name = c.column_name), 0)
		FROM information_schema.columns c WHERE c.table_schema = 'public'
		UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname NOT LIKE '%\_pkey' AND indexname NOT LIKE '%\_key'
		UNION ALL SELECT t.relname || ' unique ' || (SELECT string_agg(a.attname, ' ' ORDER BY n) FROM unnest(u.conkey) WITH ORDINALITY AS k(col, n) JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.col)
			FROM pg_constraint u JOIN pg_class t ON t.oid = u.conrelid WHERE u.contype = 'u' AND t.relnamespace = 'public'::regnamespace
		UNION ALL SELECT t.relname || ' refers ' || a.attname || ' ' || o.relname || ' ' || b.attname || ' ' || CASE f.confdeltype WHEN 'c' THEN 'CASCADE' ELSE 'NO ACTION' END
			FROM pg_constraint f JOIN pg_class t ON t.oid = f.conrelid JOIN pg_class o ON o.oid = f.confrelid
			JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = f.conkey[1] JOIN pg_attribute b ON b.attrelid = o.oid AND b.attnum = f.confkey[1] WHERE f.contype = 'f'`
)

var sameSpelling = strings.NewReplacer(
	"bigint", "integer", "bytea", "blob", "::text", "", "public.", "", " using btree", "", "(", " ", ")", " ", ",", " ")

// describe lists the parts of a schema in one spelling, without the table that
// goose keeps.
func describe(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var parts []string
	for rows.Next() {
		var part string
		if err := rows.Scan(&part); err != nil {
			t.Fatal(err)
		}
		part = strings.Join(strings.Fields(sameSpelling.Replace(strings.ToLower(part))), " ")
		if !strings.HasPrefix(part, "goose_") {
			parts = append(parts, part)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(parts)
	return parts
}

// Ensure that rows of the audit trail can be neither changed nor removed.
func TestAuditIsAppendOnly(t *testing.T) {
	s, _ := open(t)
	if err := s.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec("INSERT INTO audit (seq, at, kind, actor, subject, detail, hash) VALUES (1, 1, '', '', '', '{}', ?)", []byte{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"UPDATE audit SET actor = 'x'", "DELETE FROM audit"} {
		err := s.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(statement)
			return err
		})
		if !strings.Contains(fmt.Sprint(err), "append-only") {
			t.Errorf("%s: %v", statement, err)
		}
	}
}
