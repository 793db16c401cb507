package guard_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

// publisher is an issuer's web server, over real TLS.
type publisher struct {
	srv      *httptest.Server
	mu       sync.Mutex // guards the fields below
	metadata func(issuer string) object
	keys     any
	status   int    // of the key set; 0: 200
	only     string // the one metadata path that exists; empty: the OpenID one
	fetched  atomic.Int32
}

func publish(t *testing.T, keys any) *publisher {
	t.Helper()
	p := &publisher{keys: keys, only: "/.well-known/openid-configuration"}
	p.metadata = func(issuer string) object { return object{"issuer": issuer, "jwks_uri": p.srv.URL + "/jwks"} }
	p.srv = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch r.URL.Path {
		case p.only:
			json.NewEncoder(w).Encode(p.metadata(p.srv.URL))
		case "/jwks":
			p.fetched.Add(1)
			if p.status != 0 {
				w.Header().Set("Location", p.srv.URL+"/elsewhere")
				w.WriteHeader(p.status)
				return
			}
			json.NewEncoder(w).Encode(p.keys)
		case "/elsewhere":
			t.Error("a redirect was followed")
		default:
			http.NotFound(w, r)
		}
	}))
	return p
}

func (p *publisher) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// keySet is the key set of issuers, each key with the ID given beside it.
func keySet(t *testing.T, keys map[string]*issuer) object {
	t.Helper()
	list := []object{}
	for id, i := range keys {
		list = append(list, jwk(t, &i.key.PublicKey).with(object{"kid": id, "use": "sig", "alg": "ES256"}))
	}
	return object{"keys": list}
}

// clock is a clock for several goroutines.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time {
	return time.Unix(1_780_000_000, 0).Add(time.Duration(c.offset.Load()))
}
func (c *clock) add(d time.Duration) { c.offset.Add(int64(d)) }

// Ensure that a guard with fetched keys verifies a token end to end, and that
// many requests at once cost one fetch.
func TestFetchKeys(t *testing.T) {
	i := newIssuer(t)
	p := publish(t, keySet(t, map[string]*issuer{"key-1": i}))
	cfg := i.config()
	cfg.Issuer, cfg.CacheSize = p.srv.URL, -1
	cfg.Keys = guard.FetchKeys(p.srv.URL, clientOf(t, p.srv))
	g, err := guard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	raw := i.token(t, i.header(), i.claims().with(object{"iss": p.srv.URL}))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := g.Verify(t.Context(), raw); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := p.fetched.Load(); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}
}

// Ensure that the metadata are also found where RFC 8414 has them.
func TestFetchKeysRFC8414(t *testing.T) {
	i := newIssuer(t)
	p := publish(t, keySet(t, map[string]*issuer{"key-1": i}))
	p.set(func() { p.only = "/.well-known/oauth-authorization-server" })
	roots := p.srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	key, err := guard.FetchKeys(p.srv.URL, guard.HTTPClient(roots, keyholder.TLSStrict))(t.Context(), "key-1")
	if err != nil || !i.key.PublicKey.Equal(key) {
		t.Errorf("key %v, error %v", key, err)
	}
}

// Ensure that a new key is found at once, that unknown key IDs do not cause
// more than one request in five seconds, that a withdrawn key ends, and that
// an issuer that is away for a while stops nobody.
func TestFetchKeysOverTime(t *testing.T) {
	a, b := newIssuer(t), newIssuer(t)
	p := publish(t, keySet(t, map[string]*issuer{"a": a}))
	var c clock
	fetch := guard.FetchKeysAt(p.srv.URL, clientOf(t, p.srv), c.now)
	want := func(step, kid string, k *ecdsa.PrivateKey, code keyholder.Code, fetches int32) {
		t.Helper()
		key, err := fetch(t.Context(), kid)
		if keyholder.CodeOf(err) != code || code == "" && !k.PublicKey.Equal(key) {
			t.Errorf("%s: key %v, error %v, want code %q", step, key, err, code)
		}
		if n := p.fetched.Load(); fetches >= 0 && n != fetches {
			t.Errorf("%s: %d fetches, want %d", step, n, fetches)
		}
	}
	want("first", "a", a.key, "", 1)
	want("made-up ID", "x", nil, keyholder.Denied, 1)
	want("another", "y", nil, keyholder.Denied, 1)
	c.add(5 * time.Second)
	p.set(func() { p.keys = keySet(t, map[string]*issuer{"a": a, "b": b}) })
	want("new key", "b", b.key, "", 2)
	p.set(func() { p.status = http.StatusInternalServerError })
	c.add(10 * time.Second)
	want("known, issuer away", "a", a.key, "", 2)
	want("unknown, issuer away", "z", nil, keyholder.Unavailable, 3)
	want("known, after failing", "b", b.key, "", 3)
	c.add(59 * time.Minute)
	want("within the grace", "a", a.key, "", -1)
	c.add(time.Minute)
	want("after the grace", "a", nil, keyholder.Unavailable, -1)
	p.set(func() { p.status, p.keys = 0, keySet(t, map[string]*issuer{"b": b}) })
	c.add(10 * time.Second)
	want("back", "b", b.key, "", -1)
	want("withdrawn key", "a", nil, keyholder.Denied, -1)
}

// Ensure that a known key that is due for a look is used without waiting and
// that the look takes place.
func TestFetchKeysRefreshes(t *testing.T) {
	a := newIssuer(t)
	p := publish(t, keySet(t, map[string]*issuer{"a": a}))
	var c clock
	fetch := guard.FetchKeysAt(p.srv.URL, clientOf(t, p.srv), c.now)
	if _, err := fetch(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	c.add(10 * time.Minute)
	if _, err := fetch(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for p.fetched.Load() < 2 {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the keys were not looked at again")
		}
	}
}

// Ensure that a caller who stops waiting does not stop the fetch for others.
func TestFetchKeysCancelled(t *testing.T) {
	i := newIssuer(t)
	p := publish(t, keySet(t, map[string]*issuer{"key-1": i}))
	fetch := guard.FetchKeys(p.srv.URL, clientOf(t, p.srv))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fetch(ctx, "key-1"); err != nil && keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := fetch(t.Context(), "key-1"); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Ensure that metadata and keys that cannot be trusted yield no key.
func TestFetchKeysRefuses(t *testing.T) {
	i := newIssuer(t)
	good := keySet(t, map[string]*issuer{"key-1": i})
	tests := map[string]func(p *publisher){
		"other issuer": func(p *publisher) {
			p.metadata = func(s string) object { return object{"issuer": s + "/", "jwks_uri": s + "/jwks"} }
		},
		"keys over http": func(p *publisher) {
			p.metadata = func(s string) object {
				return object{"issuer": s, "jwks_uri": strings.Replace(s, "https", "http", 1) + "/jwks"}
			}
		},
		"no keys named": func(p *publisher) { p.metadata = func(s string) object { return object{"issuer": s} } },
		"no metadata":   func(p *publisher) { p.only = "/nowhere" },
		"redirect":      func(p *publisher) { p.status = http.StatusFound },
		"missing":       func(p *publisher) { p.status = http.StatusNotFound },
		"two of one ID": func(p *publisher) {
			k := good["keys"].([]object)[0]
			p.keys = object{"keys": []object{k, k}}
		},
		"too many": func(p *publisher) { p.keys = object{"keys": make([]object, 65)} },
		"too long": func(p *publisher) { p.keys = object{"pad": strings.Repeat("x", 300<<10)} },
		"no JSON":  func(p *publisher) { p.keys = "keys" },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			p := publish(t, good)
			p.set(func() { change(p) })
			key, err := guard.FetchKeys(p.srv.URL, clientOf(t, p.srv))(t.Context(), "key-1")
			if key != nil || keyholder.CodeOf(err) != keyholder.Unavailable {
				t.Errorf("key %v, error %v, want unavailable", key, err)
			}
		})
	}
	for _, s := range []string{"http://as.example.com", "https://", "as.example.com", "https://a@as.example.com",
		"https://as.example.com?x=1", "https://as.example.com#", "https://as.example.com?", ""} {
		if _, err := guard.Discover(t.Context(), s, nil); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("issuer %q: error %v, want invalid", s, err)
		}
	}
}

// Ensure that keys that may not sign tokens are skipped: private ones, those
// for encryption, without ID, or of an unknown kind.
func TestFetchKeysSkips(t *testing.T) {
	i := newIssuer(t)
	private, err := i.key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	public := jwk(t, &i.key.PublicKey)
	p := publish(t, object{"keys": []any{
		public.with(object{"kid": "private", "d": encode(private)}),
		public.with(object{"kid": "encryption", "use": "enc"}),
		public,
		object{"kty": "oct", "kid": "symmetric", "k": "c2VjcmV0"},
		object{"kty": "new", "kid": "unknown"},
		public.with(object{"kid": "good"}),
	}})
	fetch := guard.FetchKeys(p.srv.URL, clientOf(t, p.srv))
	for kid, want := range map[string]crypto.PublicKey{"private": nil, "encryption": nil, "": nil, "symmetric": nil, "unknown": nil, "good": &i.key.PublicKey} {
		key, err := fetch(t.Context(), kid)
		if want == nil && keyholder.CodeOf(err) != keyholder.Denied || want != nil && !i.key.PublicKey.Equal(key) {
			t.Errorf("key %q: %v, error %v", kid, key, err)
		}
	}
}
