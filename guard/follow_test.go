package guard_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/keyholdertest"
)

// fabric is a real Keyholder, an app with two subscriptions, and the API of a
// provider that keeps its own, behind a guard that follows.
type fabric struct {
	*keyholdertest.Server
	t        *testing.T
	line     *line
	app      keyholder.App
	secret   string
	subs     [2]keyholder.SubscriptionID
	tokens   [2]string
	server   keyholder.ResourceServer
	password string // secret of the resource server
	follower *guard.Follower
	api      *httptest.Server
}

func newFabric(t *testing.T) *fabric {
	t.Helper()
	f := &fabric{Server: keyholdertest.Start(t), t: t}
	provider := f.AddProvider("Soap Inc")
	f.app, f.secret = f.AddApp("Cleaner", keyholder.AuthSecret, "")
	for i, key := range []string{"northgate", "st-anna"} {
		f.subs[i] = f.AddSubscription(f.AddAgreement(provider.ID, f.AddOwner(key).ID), f.app.ID, "")
		f.tokens[i] = f.token(f.subs[i])
	}
	f.server, f.password = f.AddResourceServer("Soap Inc's API")
	f.line = newLine(t, strings.TrimPrefix(f.Issuer, "https://"))
	return f
}

// token gets a token from the token endpoint.
func (f *fabric) token(sub keyholder.SubscriptionID) string {
	f.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {keyholder.ScopeRead}, "subscription_id": {string(sub)}}
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodPost, f.Issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		f.t.Fatal(err)
	}
	r.SetBasicAuth(string(f.app.ID), f.secret)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := f.HTTP().Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.AccessToken == "" {
		f.t.Fatalf("no token: status %d, %v", resp.StatusCode, err)
	}
	return answer.AccessToken
}

// follow starts the follower, over the line, and the API behind it.
func (f *fabric) follow(grace time.Duration) {
	f.t.Helper()
	client := f.HTTP()
	transport(client).DialContext = f.line.dial
	var err error
	f.follower, err = guard.Follow(f.t.Context(), guard.FollowConfig{
		Issuer: f.Issuer, ClientID: string(f.server.ID), Secret: f.password, Client: client, Grace: grace})
	if err != nil {
		f.t.Fatal(err)
	}
	g, err := guard.New(guard.Config{Issuer: f.Issuer, Audience: f.API, Keys: guard.FetchKeys(f.Issuer, f.HTTP()), Follower: f.follower})
	if err != nil {
		f.t.Fatal(err)
	}
	allow := func(keyholder.Token, keyholder.Proof) keyholder.Verdict { return keyholder.Verdict{Allowed: true} }
	f.api = httptest.NewTLSServer(g.Middleware(allow, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := guard.FromContext(r.Context())
		_, _ = io.WriteString(w, string(token.Subscription))
	})))
	f.t.Cleanup(f.api.Close)
}

func transport(c *http.Client) *http.Transport { return c.Transport.(*http.Transport) }

// read asks the API with the token of a subscription.
func (f *fabric) read(i int) int {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), http.MethodGet, f.api.URL, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+f.tokens[i])
	resp, err := f.api.Client().Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		f.t.Fatal(err)
	case resp.StatusCode == http.StatusOK && string(body) != string(f.subs[i]):
		f.t.Errorf("the API answered for %q", body)
	case resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "":
		f.t.Error("503 without Retry-After")
	}
	return resp.StatusCode
}

// want checks what the API answers now.
func (f *fabric) want(i, status int) {
	f.t.Helper()
	if got := f.read(i); got != status {
		f.t.Errorf("subscription %d: status %d, want %d; feed %+v", i, got, status, f.follower.State())
	}
}

// until waits for a status and returns how long that took.
func (f *fabric) until(i, status int, limit time.Duration) time.Duration {
	f.t.Helper()
	return eventually(f.t, limit, func() bool { return f.read(i) == status })
}

func (f *fabric) connected(want bool) {
	f.t.Helper()
	eventually(f.t, 10*time.Second, func() bool { return f.follower.State().Connected == want })
}

// eventually waits until ok says yes and returns how long that took.
func eventually(t *testing.T, limit time.Duration, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("it has not happened within %s", limit)
		}
		<-tick.C
	}
	return time.Since(began)
}

// line is a stretch of network that can break or fall silent.
type line struct {
	target string

	mu     sync.Mutex // guards the rest
	broken bool
	conns  []*wire
}

// wire is one connection over the line.
type wire struct {
	net.Conn
	mu     sync.Mutex // held while the wire is silent
	silent bool
}

func newLine(t *testing.T, target string) *line {
	l := &line{target: target}
	t.Cleanup(l.wake)
	return l
}

func (l *line) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return nil, net.ErrClosed
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", l.target)
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: c}
	l.conns = append(l.conns, w)
	return w, nil
}

// Read gives nothing while the wire is silent.
func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.mu.Lock()
	defer w.mu.Unlock()
	return n, err
}

// cut breaks all connections and lets no new one through.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = true
	for _, w := range l.conns {
		_ = w.Close()
	}
	l.conns = nil
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = false
}

// silence lets nothing more arrive on the connections there are.
func (l *line) silence() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.conns {
		if !w.silent {
			w.silent = true
			w.mu.Lock()
		}
	}
}

func (l *line) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.conns {
		if w.silent {
			w.silent = false
			w.mu.Unlock()
		}
	}
}

// Ensure that a cut is refused by a guard that follows within a second, that
// the other subscription goes on, and that neither a restart of the server nor
// a broken line revives what has ended.
func TestFollow(t *testing.T) {
	f := newFabric(t)
	f.follow(time.Minute)
	f.connected(true)
	f.want(0, http.StatusOK)
	f.want(1, http.StatusOK)
	f.Cut(keyholder.CutSubscription, string(f.subs[0]))
	took := f.until(0, http.StatusUnauthorized, time.Second)
	t.Logf("the cut was refused %s after its receipt", took)
	f.want(1, http.StatusOK)
	if s := f.follower.State(); !s.Connected || s.Failure != nil || s.Lag > 3*keyholder.FeedBeat || s.Endings == 0 {
		t.Errorf("state %+v", s)
	}
	f.Restart()
	f.want(0, http.StatusUnauthorized)
	f.connected(true)
	f.want(0, http.StatusUnauthorized)
	f.want(1, http.StatusOK)

	// What is cut while the line is down is refused when it is back.
	f.line.cut()
	f.connected(false)
	f.Cut(keyholder.CutSubscription, string(f.subs[1]))
	f.want(0, http.StatusUnauthorized)
	f.want(1, http.StatusOK) // the grace
	f.line.mend()
	f.until(1, http.StatusUnauthorized, 3*time.Second)
	f.connected(true)
}

// Ensure that without feed and introspection tokens are taken for the stated
// grace, then refused as unavailable, and taken again when the line is back.
func TestFollowGrace(t *testing.T) {
	const grace = 3 * time.Second
	f := newFabric(t)
	f.follow(grace)
	f.connected(true)
	f.want(0, http.StatusOK)
	f.line.cut()
	broken := time.Now()
	f.until(0, http.StatusServiceUnavailable, 2*grace)
	// The last beat came up to one beat before the line broke.
	if took := time.Since(broken); took < grace-2*keyholder.FeedBeat || took > grace+keyholder.FeedBeat {
		t.Errorf("refused after %s, want about %s", took, grace)
	}
	if s := f.follower.State(); s.Connected || s.Failure == nil || keyholder.CodeOf(s.Failure) != keyholder.Unavailable {
		t.Errorf("state %+v", s)
	}
	f.want(1, http.StatusServiceUnavailable)
	f.line.mend()
	f.until(0, http.StatusOK, 5*time.Second)
}

// Ensure that a connection on which nothing arrives any more is noticed and
// replaced, so that a cut is refused within seconds even then.
func TestFollowSilence(t *testing.T) {
	f := newFabric(t)
	f.follow(time.Minute)
	f.connected(true)
	f.want(0, http.StatusOK)
	f.line.silence()
	f.Cut(keyholder.CutSubscription, string(f.subs[0]))
	took := f.until(0, http.StatusUnauthorized, 4*time.Second)
	t.Logf("the cut was refused %s after its receipt", took)
	f.want(1, http.StatusOK)
}

// Ensure that a guard whose feed is not to be had asks about each token, also
// when it never had the feed, and refuses what the server calls inactive.
func TestFollowByIntrospection(t *testing.T) {
	f := newFabric(t)
	for range 8 { // all places of this resource server
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.Issuer+"/endings", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(string(f.server.ID), f.password)
		resp, err := f.HTTP().Do(r)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("no feed: %v", err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
	}
	f.follow(0)
	f.want(0, http.StatusOK)
	f.want(1, http.StatusOK)
	eventually(t, 5*time.Second, func() bool { return f.follower.State().Failure != nil })
	if s := f.follower.State(); s.Connected || !s.LastSign.IsZero() {
		t.Errorf("state %+v", s)
	}
	f.Cut(keyholder.CutSubscription, string(f.subs[0]))
	took := f.until(0, http.StatusUnauthorized, 2*time.Second)
	t.Logf("the cut was refused %s after its receipt", took)
	f.want(1, http.StatusOK)
	f.line.cut()
	f.until(1, http.StatusServiceUnavailable, 3*time.Second) // no grace
}

// Ensure that a follower that is not let in says so and takes no token.
func TestFollowDenied(t *testing.T) {
	f := newFabric(t)
	f.password += "x"
	f.follow(time.Minute)
	f.want(0, http.StatusServiceUnavailable)
	eventually(t, 5*time.Second, func() bool { return keyholder.CodeOf(f.follower.State().Failure) == keyholder.Denied })
}

// Ensure that an incomplete configuration is refused.
func TestFollowConfig(t *testing.T) {
	sound := guard.FollowConfig{Issuer: testIssuer, ClientID: "server", Secret: "secret"}
	for name, change := range map[string]func(*guard.FollowConfig){
		"no issuer":         func(c *guard.FollowConfig) { c.Issuer = "" },
		"plain issuer":      func(c *guard.FollowConfig) { c.Issuer = "http://as.example.com" },
		"no client":         func(c *guard.FollowConfig) { c.ClientID = "" },
		"no secret":         func(c *guard.FollowConfig) { c.Secret = "" },
		"negative grace":    func(c *guard.FollowConfig) { c.Grace = -1 },
		"negative lifetime": func(c *guard.FollowConfig) { c.MaxLifetime = -1 },
	} {
		c := sound
		change(&c)
		if _, err := guard.Follow(t.Context(), c); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	sound.Client = &http.Client{Transport: http.NewFileTransport(http.Dir(t.TempDir()))} // reaches nobody
	follower, err := guard.Follow(t.Context(), sound)
	if err != nil {
		t.Fatal(err)
	}
	c := newIssuer(t).config()
	c.Follower, c.MaxLifetime = follower, 2*time.Hour
	if _, err := guard.New(c); keyholder.CodeOf(err) != keyholder.Invalid {
		t.Errorf("a guard whose tokens outlive the follower's memory: %v", err)
	}
}
