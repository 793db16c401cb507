package mailbox_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// spoil changes the file behind the store's back.
func (b *bench) spoil(statement string) {
	b.t.Helper()
	if r, err := b.at.SQL(b.t).Exec(statement); err != nil {
		b.t.Fatal(err)
	} else if n, _ := r.RowsAffected(); n == 0 {
		b.t.Fatal("nothing was spoiled")
	}
}

// Ensure that a message that was changed on disk, in whichever part, is not
// delivered, is taken out with an alarm, and holds up nothing.
func TestDamagedMessage(t *testing.T) {
	for name, spoil := range map[string]string{
		"payload":           `UPDATE messages SET payload = (SELECT payload FROM messages WHERE seq = 4) WHERE seq = 3`,
		"payload cut short": `UPDATE messages SET payload = substr(payload, 1, 3) WHERE seq = 3`,
		"level":             `UPDATE messages SET level = 'statuses' WHERE seq = 3`,
		"time":              `UPDATE messages SET at = at + 1 WHERE seq = 3`,
		"properties":        `UPDATE messages SET properties = substr(payload, 1, 3) WHERE seq = 3`,
		"checksum":          `UPDATE messages SET sum = sum + 1 WHERE seq = 3`,
		"place":             `UPDATE messages SET seq = CASE seq WHEN 3 THEN 6 ELSE seq END WHERE seq = 3`,
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, mailbox.Config{})
			sub := b.subscribe("a")
			b.append(sub, 1, 5)
			b.close()
			b.spoil(spoil)
			b.open()
			var log bytes.Buffer
			b.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
			damaged := must(mailbox.Open(b.store, b.ledger, mailbox.Config{Log: b.cfg.Log}))
			c := damaged.Consumer(sub, mailbox.MQTT)
			expect(t, c, 1, 2)
			expect(t, c, 4, 5)
			expectNothing(t, c)
			if err := damaged.Close(); err != nil {
				t.Fatal(err)
			}
			if d := b.depth(sub); d.Messages != 4 || b.stored("messages", sub) != 4 {
				t.Errorf("the queue counts %d messages and holds %d", d.Messages, b.stored("messages", sub))
			}
			if b.recorded(keyholder.EventMessageDamaged, sub) != 1 || !bytes.Contains(log.Bytes(), []byte("damaged on disk")) {
				t.Errorf("the damage is not on the audit trail or not in the log: %s", log.Bytes())
			}
		})
	}
}

// Ensure that a message that was moved into another queue is not delivered to
// the other one.
func TestMisplacedMessage(t *testing.T) {
	b := open(t, mailbox.Config{})
	mine, other := b.subscribe("mine"), b.subscribe("other")
	b.append(mine, 1, 1)
	b.close()
	b.spoil(fmt.Sprintf("UPDATE messages SET subscription = '%s'", other))
	b.open()
	expectNothing(t, b.Consumer(other, mailbox.MQTT))
}

// FuzzRecovery changes bytes of the database file. Whatever happens to them,
// nothing panics, and every message that is delivered is one that was
// appended, in order: a file that cannot be read is refused with an error.
func FuzzRecovery(f *testing.F) {
	b := open(f, mailbox.Config{})
	sub := b.subscribe("a")
	const last = 40
	b.append(sub, 1, last)
	b.close()
	whole, err := os.ReadFile(b.at.String())
	if err != nil {
		f.Fatal(err)
	}
	b.open()
	at := bytes.Index(whole, payload(17))
	if at < 0 {
		f.Fatal("the payload does not stand in the file")
	}
	change := func(offset int, by ...byte) []byte {
		return append([]byte{byte(offset >> 16), byte(offset >> 8), byte(offset)}, by...)
	}
	f.Add(change(at+5, 1))
	f.Add(change(at-40, 0x80))
	f.Add(change(20, 0xff))
	f.Add(change(4096, 7))
	f.Add(append(change(at, 1), change(at+200, 0x40)...))
	f.Fuzz(func(t *testing.T, changes []byte) {
		file := bytes.Clone(whole)
		for ; len(changes) >= 4; changes = changes[4:] {
			offset := int(changes[0])<<16 | int(changes[1])<<8 | int(changes[2])
			file[offset%len(file)] ^= changes[3]
		}
		path := filepath.Join(t.TempDir(), "keyholder.db")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		recoverFile(t, path, sub, last)
	})
}

// recoverFile reads a queue out of a file that may be damaged.
func recoverFile(t *testing.T, path string, sub keyholder.SubscriptionID, last int64) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := store.Open(ctx, path)
	if err != nil {
		return
	}
	defer s.Close()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	l, err := ledger.Open(ctx, ledger.Config{Store: s, Log: log, Sign: func(p []byte) (string, error) { return fmt.Sprintf("signed-%x", sha256.Sum256(p)), nil }})
	if err != nil {
		return
	}
	defer l.Close()
	m, err := mailbox.Open(s, l, mailbox.Config{Log: log})
	if err != nil {
		return
	}
	defer m.Close()
	c := m.Consumer(sub, mailbox.MQTT)
	for before := int64(0); ; {
		msg, found, err := c.Take(ctx)
		if ctx.Err() != nil {
			t.Fatal("reading the damaged file does not end")
		}
		if err != nil || !found {
			return
		}
		if msg.Seq <= before || msg.Seq > last || msg.Level != "events" || !bytes.Equal(msg.Payload, payload(int(msg.Seq))) {
			t.Fatalf("after %d came %d %q %q", before, msg.Seq, msg.Level, msg.Payload)
		}
		before = msg.Seq
	}
}
