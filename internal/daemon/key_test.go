package daemon_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/console"
	"github.com/fds-keyholder/keyholder/internal/daemon"
)

// running is a started daemon with its admin.
type running struct {
	t     *testing.T
	admin *console.Client
	close func()
}

func run(t *testing.T, dir string, o daemon.Options) *running {
	t.Helper()
	d, err := begin(t, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := console.Dial(dir)
	if err != nil {
		t.Fatal(errors.Join(err, d.Close(t.Context())))
	}
	return &running{t: t, admin: admin, close: func() {
		admin.Close()
		if err := d.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}}
}

// keys returns the keys that verify tokens now, and those that do not any more.
func (r *running) keys() (live, retired []string) {
	r.t.Helper()
	text, err := r.admin.Keys(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	var set struct {
		Keys []struct {
			ID      string          `json:"kid"`
			Revoked json.RawMessage `json:"revoked"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		r.t.Fatal(err)
	}
	for _, k := range set.Keys {
		if k.Revoked == nil {
			live = append(live, k.ID)
		} else {
			retired = append(retired, k.ID)
		}
	}
	return live, retired
}

// Ensure that a folder whose keys are those of a time before one was retired
// starts without that key: what was ended stays so.
func TestRestoredKeyStaysRetired(t *testing.T) {
	dir, ctx := filepath.Join(t.TempDir(), "data"), t.Context()
	if err := daemon.Init(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	before := filepath.Join(t.TempDir(), "keys")
	if err := os.CopyFS(before, os.DirFS(filepath.Join(dir, "keys"))); err != nil {
		t.Fatal(err)
	}
	r := run(t, dir, daemon.Options{})
	stolen, _ := r.keys()
	if len(stolen) != 1 {
		t.Fatalf("keys: %v", stolen)
	}
	if _, err := r.admin.RetireKey(ctx, console.KeyRetirement{ID: stolen[0], Reason: "disk was stolen"}); err != nil {
		t.Fatal(err)
	}
	r.close()
	if err := os.RemoveAll(filepath.Join(dir, "keys")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "keys"), os.DirFS(before)); err != nil {
		t.Fatal(err)
	}
	for _, private := range []string{"es256-*.key", "factors", "signing"} { // CopyFS leaves modes out
		paths, err := filepath.Glob(filepath.Join(dir, "keys", private))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			if err := os.Chmod(p, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	r = run(t, dir, daemon.Options{})
	defer r.close()
	live, retired := r.keys()
	if slices.Contains(live, stolen[0]) || !slices.Contains(retired, stolen[0]) || len(live) == 0 {
		t.Errorf("in use: %v, retired: %v; %s was retired", live, retired, stolen[0])
	}
}

// Ensure that a server renews its signing keys by itself when their time has
// come, and that this is on the audit trail.
func TestKeysRenewThemselves(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	made := time.Now()
	if err := daemon.Init(dir, made); err != nil {
		t.Fatal(err)
	}
	r := run(t, dir, daemon.Options{Now: func() time.Time { return made.AddDate(0, 0, 89) }})
	if live, _ := r.keys(); len(live) != 1 {
		t.Errorf("after 89 days: %v", live)
	}
	r.close()
	r = run(t, dir, daemon.Options{Now: func() time.Time { return made.AddDate(0, 0, 91) }})
	defer r.close()
	limit := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		live, _ := r.keys()
		events, err := r.admin.Audit(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(live) == 2 && slices.ContainsFunc(events, func(e keyholder.Event) bool { return e.Kind == keyholder.EventKeyRotated }) {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("after 91 days: %v", live)
		}
	}
}
