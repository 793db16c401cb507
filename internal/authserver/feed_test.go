package authserver_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// event is one event of the feed.
type event struct {
	kind, id string
	ending   keyholder.Ending
}

// following is an open feed. Its events come on a channel, which is closed
// when the feed ends.
type following struct {
	t      *testing.T
	status int
	events chan event
	last   string // ID of the last event
	stop   func() error
}

// follow asks for the feed as a client, from after the event last.
func (b *bench) follow(t *testing.T, id, secret, last string) *following {
	t.Helper()
	r := must(http.NewRequestWithContext(t.Context(), http.MethodGet, b.issuer+"/endings", nil))
	r.SetBasicAuth(id, secret)
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	client := b.client()
	client.Timeout = 0
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	f := &following{t: t, status: resp.StatusCode, events: make(chan event, 10_000), stop: resp.Body.Close}
	if f.status != http.StatusOK {
		return f
	}
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %q", got)
	}
	go func() {
		defer close(f.events)
		var e event
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "event":
				e.kind = value
			case "id":
				e.id = value
			case "data":
				_ = json.Unmarshal([]byte(value), &e.ending)
			case "":
				f.events <- e
				e = event{}
			}
		}
	}()
	return f
}

// untilBeat returns the endings up to the next beat.
func (f *following) untilBeat() (ids []string) {
	f.t.Helper()
	limit := time.After(5 * time.Second)
	for {
		select {
		case e, ok := <-f.events:
			if !ok {
				f.t.Fatal("the feed ended")
			}
			f.last = e.id
			if e.kind == "beat" {
				return ids
			}
			ids = append(ids, string(e.ending.Kind)+" "+e.ending.ID)
		case <-limit:
			f.t.Fatal("no beat came")
		}
	}
}

// over waits for the end of the feed.
func (f *following) over(limit time.Duration) {
	f.t.Helper()
	timer := time.After(limit)
	for {
		select {
		case _, ok := <-f.events:
			if !ok {
				return
			}
		case <-timer:
			f.t.Fatalf("the feed has not ended after %s", limit)
		}
	}
}

func (b *bench) followAsGateway(t *testing.T, last string) *following {
	t.Helper()
	f := b.follow(t, string(b.rs.ID), b.rsSecret, last)
	if f.status != http.StatusOK {
		t.Fatalf("the feed answered %d", f.status)
	}
	return f
}

// endGrant ends a new grant and returns what the feed says of it.
func (b *bench) endGrant() string {
	g := ledger.Grant{ID: must(keyholder.NewID[keyholder.GrantID](nil)), Client: string(b.provider.ID), Created: b.now()}
	if err := b.ledger.EndMachineGrant(b.t.Context(), ledger.System, g, "test"); err != nil {
		b.t.Fatal(err)
	}
	return "grant " + string(g.ID)
}

// Ensure that a follower is told first what is ended, then within a second
// what ends; that it resumes where it broke off; and that after a restart it
// is told all again.
func TestFeed(t *testing.T) {
	b := open(t)
	first := b.endGrant()
	f := b.followAsGateway(t, "")
	if got := f.untilBeat(); len(got) != 1 || got[0] != first {
		t.Errorf("told first: %v, want %s", got, first)
	}
	sub := must(b.ledger.GiveConsent(t.Context(), ledger.Administrator, keyholder.Consent{Agreement: b.agreement.ID, App: b.app.ID}, ""))
	if _, err := b.ledger.Cut(t.Context(), ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: string(sub.ID)}, "test"); err != nil {
		t.Fatal(err)
	}
	cut := time.Now()
	var told []string
	for told == nil {
		told = f.untilBeat()
	}
	if took := time.Since(cut); took > time.Second || told[0] != "subscription "+string(sub.ID) {
		t.Errorf("told %v after %s", told, took)
	}
	last := f.last
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	second := b.endGrant()
	if got := b.followAsGateway(t, last).untilBeat(); len(got) != 1 || got[0] != second {
		t.Errorf("resumed with %v, want %s", got, second)
	}
	for _, id := range []string{"", "another.1", "x", "another." + strings.Repeat("9", 30), strings.Split(last, ".")[0], strings.Split(last, ".")[0] + ".x"} {
		if got := b.followAsGateway(t, id).untilBeat(); len(got) != 3 {
			t.Errorf("after %q: %v, want everything", id, got)
		}
	}
	b.stop()
	b.start()
	if got := b.followAsGateway(t, last).untilBeat(); len(got) != 3 {
		t.Errorf("after a restart: %v, want everything", got)
	}
}

// Ensure that only registered resource servers follow, each refusal being
// audited, and that only so many do.
func TestFeedRefused(t *testing.T) {
	b := open(t)
	provider := must(b.ledger.AddSecret(t.Context(), ledger.Administrator, string(b.provider.ID)))
	for name, tt := range map[string]struct {
		id, secret, path string
		status           int
	}{
		"nobody":       {"", "", "/endings", http.StatusUnauthorized},
		"wrong secret": {string(b.rs.ID), b.rsSecret + "x", "/endings", http.StatusUnauthorized},
		"app":          {string(b.app.ID), b.secret, "/endings", http.StatusForbidden},
		"provider":     {string(b.provider.ID), provider, "/endings", http.StatusForbidden},
		"query":        {string(b.rs.ID), b.rsSecret, "/endings?client_id=x", http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			before := b.audited(keyholder.EventDenied)
			r := must(http.NewRequestWithContext(t.Context(), http.MethodGet, b.issuer+tt.path, nil))
			if tt.id != "" {
				r.SetBasicAuth(tt.id, tt.secret)
			}
			resp, err := b.client().Do(r)
			got := read(t, resp, err)
			if got.status != tt.status || got.text("error") == "" || (tt.status == http.StatusUnauthorized) != (got.header.Get("WWW-Authenticate") != "") {
				t.Errorf("status %d, %s, challenge %q", got.status, got.body, got.header.Get("WWW-Authenticate"))
			}
			if n := b.audited(keyholder.EventDenied) - before; n != 1 {
				t.Errorf("%d audit rows, want 1", n)
			}
		})
	}
	var all []*following
	for range 8 {
		all = append(all, b.followAsGateway(t, ""))
	}
	if f := b.follow(t, string(b.rs.ID), b.rsSecret, ""); f.status != http.StatusTooManyRequests {
		t.Errorf("the ninth follower got %d", f.status)
	}
	other := must(b.ledger.AddResourceServer(t.Context(), ledger.Administrator, "Other"))
	if f := b.follow(t, string(other.ID), must(b.ledger.AddSecret(t.Context(), ledger.Administrator, string(other.ID))), ""); f.status != http.StatusOK {
		t.Errorf("another resource server got %d", f.status)
	}
	if err := all[0].stop(); err != nil {
		t.Fatal(err)
	}
	b.untilAdmitted(t, 5*time.Second)
}

// untilAdmitted waits until there is a place for one more follower.
func (b *bench) untilAdmitted(t *testing.T, limit time.Duration) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); ; <-tick.C {
		if f := b.follow(t, string(b.rs.ID), b.rsSecret, ""); f.status == http.StatusOK {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("no place for a follower: status %d", f.status)
		}
	}
}

// Ensure that a feed ends when the secret it was opened with is withdrawn, and
// when the server closes.
func TestFeedEnds(t *testing.T) {
	b := open(t)
	f := b.followAsGateway(t, "")
	f.untilBeat()
	var newest string
	for range 2 { // the second one retires the first secret
		newest = must(b.ledger.AddSecret(t.Context(), ledger.Administrator, string(b.rs.ID)))
	}
	f.over(3 * time.Second)
	f = b.follow(t, string(b.rs.ID), newest, "")
	f.untilBeat()
	b.server.Close()
	f.over(time.Second)
	if f := b.follow(t, string(b.rs.ID), newest, ""); f.status != http.StatusTooManyRequests {
		t.Errorf("a closed server answered %d", f.status)
	}
}

// Ensure that followers who do not read are dropped after the stated patience
// and hold up nobody.
func TestFeedDropsSlowFollowers(t *testing.T) {
	b := open(t)
	// More than all buffers on the way hold.
	if err := b.store.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
			INSERT INTO grants (id, client, version, body, created, ended)
			SELECT printf('00000000-0000-4000-8000-%012d', i), 'x', 1, x'7b7d', ?, ? FROM n`, b.now().UnixMicro(), b.now().UnixMicro())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	b.stop()
	b.start()
	for range 8 {
		raw := must(net.Dial("tcp", strings.TrimPrefix(b.issuer, "https://")))
		if err := raw.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			t.Fatal(err)
		}
		config := keyholder.TLSStrict.Config()
		config.RootCAs, config.ServerName = b.authority.Pool(), "127.0.0.1"
		conn := tls.Client(raw, config)
		t.Cleanup(func() { _ = conn.Close() })
		r := must(http.NewRequest(http.MethodGet, b.issuer+"/endings", nil))
		r.SetBasicAuth(string(b.rs.ID), b.rsSecret)
		if err := r.Write(conn); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatalf("the feed answered %q, %v", line, err)
		}
	}
	other := must(b.ledger.AddResourceServer(t.Context(), ledger.Administrator, "Other"))
	quick := b.follow(t, string(other.ID), must(b.ledger.AddSecret(t.Context(), ledger.Administrator, string(other.ID))), "")
	n := 0
	for e := range quick.events {
		if e.kind == "beat" {
			break
		}
		if want := fmt.Sprintf("00000000-0000-4000-8000-%012d", n+1); e.ending.ID != want {
			t.Fatalf("ending %d is %s, want %s", n, e.ending.ID, want)
		}
		n++
	}
	if n != 40_000 {
		t.Errorf("the quick follower got %d endings", n)
	}
	b.untilAdmitted(t, 15*time.Second)
}

// Ensure that a feed outlives the limits of time that the server sets for
// ordinary requests, in both versions of HTTP.
func TestFeedOutlivesLimits(t *testing.T) {
	b := open(t)
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("HTTP/%d", version), func(t *testing.T) {
			t.Parallel()
			s := httptest.NewUnstartedServer(b.server.Handler())
			s.EnableHTTP2 = version == 2
			s.Config.ReadTimeout, s.Config.WriteTimeout, s.Config.IdleTimeout = time.Second, time.Second, time.Second
			s.StartTLS()
			t.Cleanup(s.Close)
			r := must(http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/endings", nil))
			r.SetBasicAuth(string(b.rs.ID), b.rsSecret)
			resp, err := s.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.ProtoMajor != version {
				t.Fatalf("version %s", resp.Proto)
			}
			began, beats := time.Now(), 0
			for lines := bufio.NewScanner(resp.Body); beats < 5 && lines.Scan(); {
				if lines.Text() == "event: beat" {
					beats++
				}
			}
			if took := time.Since(began); beats < 5 || took < 3*time.Second {
				t.Errorf("%d beats in %s", beats, took)
			}
		})
	}
}
