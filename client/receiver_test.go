package client_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/client"
	"github.com/fds-keyholder/keyholder/guard"
)

const (
	pushIssuer = "https://as.example.com"
	topic      = "fds/v2/" + testSub + "/statuses"
)

// receiverTest is a webhook receiver over real TLS and an authorization
// server's key to make its tokens with.
type receiverTest struct {
	t   *testing.T
	srv *httptest.Server
	key *ecdsa.PrivateKey
	log *bytes.Buffer

	mu        sync.Mutex // guards the fields below
	delivered []client.Push
	fail      error
	keysFail  error
}

func newReceiver(t *testing.T, pattern string, change func(*client.ReceiverConfig)) *receiverTest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rt := &receiverTest{t: t, key: key, log: new(bytes.Buffer)}
	g, err := guard.New(guard.Config{
		Issuer: pushIssuer, AudienceFor: keyholder.WebhookAudience,
		Keys: func(context.Context, string) (crypto.PublicKey, error) {
			rt.mu.Lock()
			defer rt.mu.Unlock()
			return &key.PublicKey, rt.keysFail
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := client.ReceiverConfig{
		Guard: func(sub keyholder.SubscriptionID) *guard.Guard {
			if sub == testSub {
				return g
			}
			return nil
		},
		Deliver: func(_ context.Context, p client.Push) error {
			rt.mu.Lock()
			defer rt.mu.Unlock()
			if rt.fail == nil {
				rt.delivered = append(rt.delivered, p)
			}
			return rt.fail
		},
		Log: slog.New(slog.NewTextHandler(rt.log, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	h, err := client.NewReceiver(cfg)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(pattern, h)
	rt.srv = httptest.NewUnstartedServer(mux)
	rt.srv.TLS = keyholder.TLSStrict.Config()
	rt.srv.TLS.ClientAuth = tls.RequestClientCert
	rt.srv.StartTLS()
	t.Cleanup(rt.srv.Close)
	return rt
}

// token makes a push token, with claims changed; nil removes one.
func (rt *receiverTest) token(change map[string]any) string {
	rt.t.Helper()
	now := time.Now().Unix()
	claims := map[string]any{
		"iss": pushIssuer, "sub": testClient, "client_id": testClient, "aud": "urn:keyholder:webhook:" + testSub,
		"iat": now, "exp": now + 300, "jti": rand.Text(), "scope": "fds:push", "subscription_id": testSub,
	}
	for k, v := range change {
		if claims[k] = v; v == nil {
			delete(claims, k)
		}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: rt.key, KeyID: "k"}},
		(&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		rt.t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		rt.t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		rt.t.Fatal(err)
	}
	raw, err := jws.CompactSerialize()
	if err != nil {
		rt.t.Fatal(err)
	}
	return raw
}

// request is one push as it goes over the wire.
type request struct {
	method, path, body string
	header             http.Header
	certificate        *tls.Certificate
}

// good is a push that is taken.
func (rt *receiverTest) good() request {
	return request{method: http.MethodPost, path: "/webhook", body: `{"n": 1}`, header: http.Header{
		"Authorization": {"Bearer " + rt.token(nil)}, "Content-Type": {"application/json"},
		"Fds-Topic": {topic}, "Keyholder-Message": {testSub + "/1"},
	}}
}

func (rt *receiverTest) send(rq request) *http.Response {
	rt.t.Helper()
	cfg := keyholder.TLSStrict.Config()
	cfg.RootCAs = rt.srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	if rq.certificate != nil {
		cfg.Certificates = []tls.Certificate{*rq.certificate}
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(rt.t.Context(), rq.method, rt.srv.URL+rq.path, strings.NewReader(rq.body))
	if err != nil {
		rt.t.Fatal(err)
	}
	req.Header = rq.header
	resp, err := c.Do(req)
	if err != nil {
		rt.t.Fatal(err)
	}
	rt.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func (rt *receiverTest) pushes() []client.Push {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return rt.delivered
}

// Ensure that a permitted push is delivered as sent and answered with 204, and
// a repetition answered the same way but delivered once.
func TestReceiver(t *testing.T) {
	rt := newReceiver(t, "/webhook", nil)
	rq := rt.good()
	for range 3 {
		if resp := rt.send(rq); resp.StatusCode != http.StatusNoContent {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	second := rt.good()
	second.header.Set("Keyholder-Message", testSub+"/2")
	second.header.Set("Content-Type", "application/json; charset=utf-8")
	second.header.Set("Fds-Topic", "fds/v2/"+testSub+"/a/b")
	unnamed := rt.good()
	unnamed.header.Del("Keyholder-Message")
	for _, rq := range []request{second, unnamed, unnamed} {
		if resp := rt.send(rq); resp.StatusCode != http.StatusNoContent {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	one := client.Push{Subscription: testSub, Level: "statuses", Key: testSub + "/1", Payload: json.RawMessage(`{"n": 1}`)}
	two, three := one, one
	two.Key, two.Level, three.Key = testSub+"/2", "a/b", ""
	if d := cmp.Diff([]client.Push{one, two, three, three}, rt.pushes()); d != "" {
		t.Errorf("pushes differ (-want +got):\n%s", d)
	}
}

// Ensure that a push without the right is refused the same way whatever the
// reason, malformed ones with their status, and that nothing of them is
// delivered or logged.
func TestReceiverRefuses(t *testing.T) {
	certificate, sum := selfSigned(t)
	stranger, _ := selfSigned(t)
	bound := map[string]any{"cnf": map[string]string{"x5t#S256": encodeSum(sum)}}
	tests := map[string]struct {
		status int
		change func(rt *receiverTest, rq *request)
	}{
		"no token":         {401, func(_ *receiverTest, rq *request) { rq.header.Del("Authorization") }},
		"garbage as token": {401, func(_ *receiverTest, rq *request) { rq.header.Set("Authorization", "Bearer x.y.z") }},
		"token in the query": {401, func(rt *receiverTest, rq *request) {
			rq.path += "?access_token=" + rt.token(nil)
			rq.header.Del("Authorization")
		}},
		"two tokens":               {401, func(rt *receiverTest, rq *request) { rq.header.Add("Authorization", "Bearer "+rt.token(nil)) }},
		"token of another server":  {401, token(map[string]any{"iss": "https://other.example.com"})},
		"expired":                  {401, token(map[string]any{"iat": 1, "exp": 2})},
		"token for reading":        {401, token(map[string]any{"scope": "fds:read"})},
		"audience of the API":      {401, token(map[string]any{"aud": "https://api.example.com"})},
		"other subscription":       {401, token(map[string]any{"subscription_id": otherSub, "aud": "urn:keyholder:webhook:" + otherSub})},
		"no subscription in token": {401, token(map[string]any{"subscription_id": nil})},
		"bound, no certificate":    {401, token(bound)},
		"bound, other certificate": {401, func(rt *receiverTest, rq *request) { token(bound)(rt, rq); rq.certificate = stranger }},
		"topic of another":         {401, func(_ *receiverTest, rq *request) { rq.header.Set("Fds-Topic", "fds/v2/"+otherSub+"/statuses") }},
		"no topic":                 {401, func(_ *receiverTest, rq *request) { rq.header.Del("Fds-Topic") }},
		"two topics":               {401, func(_ *receiverTest, rq *request) { rq.header.Add("Fds-Topic", topic) }},
		"topic with a wildcard":    {401, func(_ *receiverTest, rq *request) { rq.header.Set("Fds-Topic", "fds/v2/"+testSub+"/#") }},
		"GET":                      {405, func(_ *receiverTest, rq *request) { rq.method = http.MethodGet }},
		"PUT":                      {405, func(_ *receiverTest, rq *request) { rq.method = http.MethodPut }},
		"text":                     {415, func(_ *receiverTest, rq *request) { rq.header.Set("Content-Type", "text/plain") }},
		"no content type":          {415, func(_ *receiverTest, rq *request) { rq.header.Del("Content-Type") }},
		"compressed":               {415, func(_ *receiverTest, rq *request) { rq.header.Set("Content-Encoding", "gzip") }},
		"too long":                 {413, func(_ *receiverTest, rq *request) { rq.body = `"` + strings.Repeat("x", 1<<20) + `"` }},
		"not JSON":                 {400, func(_ *receiverTest, rq *request) { rq.body = `{"n":` }},
		"two JSON values":          {400, func(_ *receiverTest, rq *request) { rq.body = `{} {}` }},
		"empty":                    {400, func(_ *receiverTest, rq *request) { rq.body = `` }},
		"two keys":                 {400, func(_ *receiverTest, rq *request) { rq.header.Add("Keyholder-Message", "x") }},
		"very long key":            {400, func(_ *receiverTest, rq *request) { rq.header.Set("Keyholder-Message", strings.Repeat("x", 300)) }},
		"keys cannot be had": {503, func(rt *receiverTest, _ *request) {
			rt.mu.Lock()
			defer rt.mu.Unlock()
			rt.keysFail = errors.New("away")
		}},
	}
	rt := newReceiver(t, "/webhook", nil)
	good := rt.good()
	token(bound)(rt, &good)
	good.certificate = certificate
	if resp := rt.send(good); resp.StatusCode != http.StatusNoContent {
		t.Fatalf("with the certificate of the token: status %d", resp.StatusCode)
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			rt := newReceiver(t, "/webhook", nil)
			rq := rt.good()
			tt.change(rt, &rq)
			resp := rt.send(rq)
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status {
				t.Fatalf("status %d, want %d: %s", resp.StatusCode, tt.status, body)
			}
			if tt.status == 401 {
				want := `{"title":"Unauthorized","status":401,"detail":"the request is not authorized","code":"denied"}` + "\n"
				if resp.Header.Get("WWW-Authenticate") != "Bearer" || string(body) != want {
					t.Errorf("challenge %q, body %s", resp.Header.Get("WWW-Authenticate"), body)
				}
			}
			if n := len(rt.pushes()); n != 0 {
				t.Errorf("%d pushes delivered", n)
			}
			if log := rt.log.String(); strings.Contains(log, "eyJ") || strings.Contains(log, `"n"`) {
				t.Errorf("the log holds a token or the payload: %s", log)
			}
		})
	}
}

// token replaces the token of a request by one with changed claims.
func token(change map[string]any) func(*receiverTest, *request) {
	return func(rt *receiverTest, rq *request) { rq.header.Set("Authorization", "Bearer "+rt.token(change)) }
}

func encodeSum(sum keyholder.Thumbprint) string { return base64.RawURLEncoding.EncodeToString(sum[:]) }

// Ensure that where the address names a subscription, the topic must be of it.
func TestReceiverAddress(t *testing.T) {
	rt := newReceiver(t, "/webhook/{subscription}", nil)
	rq := rt.good()
	for sub, want := range map[string]int{testSub: 204, otherSub: 401, "x": 401} {
		rq.path = "/webhook/" + sub
		if resp := rt.send(rq); resp.StatusCode != want {
			t.Errorf("address of %s: status %d, want %d", sub, resp.StatusCode, want)
		}
	}
}

// Ensure that an item that Deliver does not take is refused with 503 and
// taken when it comes again.
func TestReceiverDeliverFails(t *testing.T) {
	rt := newReceiver(t, "/webhook", nil)
	rt.fail = errors.New("disk full")
	rq := rt.good()
	resp := rt.send(rq)
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || strings.Contains(string(body), "disk") {
		t.Errorf("status %d, body %s", resp.StatusCode, body)
	}
	rt.mu.Lock()
	rt.fail = nil
	rt.mu.Unlock()
	if resp := rt.send(rq); resp.StatusCode != 204 || len(rt.pushes()) != 1 {
		t.Errorf("again: status %d, %d delivered", resp.StatusCode, len(rt.pushes()))
	}
}

// Ensure that of two deliveries of one message at the same time the second
// waits for the first, and that the memory of messages is bounded.
func TestReceiverRepetitions(t *testing.T) {
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	rt := newReceiver(t, "/webhook", func(c *client.ReceiverConfig) {
		c.Remember = 2
		inner := c.Deliver
		c.Deliver = func(ctx context.Context, p client.Push) error {
			entered <- struct{}{}
			<-leave
			return inner(ctx, p)
		}
	})
	rq := rt.good()
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if resp := rt.send(rq); resp.StatusCode != 204 {
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
	<-entered
	close(leave)
	wg.Wait()
	if n := len(rt.pushes()); n != 1 {
		t.Errorf("%d delivered, want 1", n)
	}
	for _, key := range []string{"b", "c", "c", testSub + "/1"} {
		rq.header.Set("Keyholder-Message", key)
		rt.send(rq)
	}
	if n := len(rt.pushes()); n != 4 { // the oldest was forgotten
		t.Errorf("%d delivered, want 4", n)
	}
}

// Ensure that an incomplete configuration is refused.
func TestNewReceiverRefuses(t *testing.T) {
	full := client.ReceiverConfig{
		Guard:   func(keyholder.SubscriptionID) *guard.Guard { return nil },
		Deliver: func(context.Context, client.Push) error { return nil },
	}
	for name, change := range map[string]func(*client.ReceiverConfig){
		"no guard":        func(c *client.ReceiverConfig) { c.Guard = nil },
		"no Deliver":      func(c *client.ReceiverConfig) { c.Deliver = nil },
		"negative length": func(c *client.ReceiverConfig) { c.MaxBody = -1 },
		"negative memory": func(c *client.ReceiverConfig) { c.Remember = -1 },
	} {
		cfg := full
		change(&cfg)
		if _, err := client.NewReceiver(cfg); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: error %v, want invalid", name, err)
		}
	}
}
