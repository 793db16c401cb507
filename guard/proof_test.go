package guard_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/go-jose/go-jose/v4"
)

// holder has a key that tokens are bound to, and makes proofs with it.
type holder struct {
	key  crypto.Signer
	alg  jose.SignatureAlgorithm
	last int // number of the last proof
}

func newHolder(t testing.TB) *holder {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &holder{key: key, alg: jose.ES256}
}

func (h *holder) thumbprint(t testing.TB) string {
	t.Helper()
	key := jose.JSONWebKey{Key: h.key.Public()}
	sum, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return encode(sum)
}

func (h *holder) header() object {
	return object{"typ": "dpop+jwt", "alg": h.alg, "jwk": jose.JSONWebKey{Key: h.key.Public()}}
}

// claims returns the content of a proof that was never used.
func (h *holder) claims(method, address, token string, now time.Time) object {
	h.last++
	sum := sha256.Sum256([]byte(token))
	return object{"jti": fmt.Sprintf("proof-%d", h.last), "htm": method, "htu": address, "iat": now.Unix(), "ath": encode(sum[:])}
}

// sign makes a proof with the holder's key, whatever header and content say.
func (h *holder) sign(t testing.TB, header, claims object) string {
	t.Helper()
	input := encode(marshal(t, header)) + "." + encode(marshal(t, claims))
	sum := sha256.Sum256([]byte(input))
	var signature []byte
	var err error
	switch k := h.key.(type) {
	case *ecdsa.PrivateKey:
		return signES256(t, k, marshal(t, header), marshal(t, claims))
	case ed25519.PrivateKey:
		signature = ed25519.Sign(k, []byte(input))
	case *rsa.PrivateKey:
		signature, err = rsa.SignPSS(rand.Reader, k, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	}
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + encode(signature)
}

// call sends a request with headers, names and values in turn.
func call(t *testing.T, c *http.Client, method, url string, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp
}

// bound is a Web API behind a guard, and a token for it that is bound to a key.
type bound struct {
	*issuer
	*holder
	api    string // as the parties reach it
	client *http.Client
	url    string // where it really is
	token  string
}

func newBound(t *testing.T) *bound {
	b := &bound{issuer: newIssuer(t), holder: newHolder(t), api: testAudience}
	srv := serve(t, b.issuer.guard(t).Middleware(forReading, nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	b.client, b.url = clientOf(t, srv), srv.URL
	b.token = b.issuer.token(t, b.issuer.header(), b.issuer.claims().with(object{"cnf": object{"jkt": b.thumbprint(t)}}))
	return b
}

// Ensure that a token bound to a key (RFC 9449) opens the Web API with a fresh
// proof of that key for that very request and token, and with nothing less.
func TestDPoP(t *testing.T) {
	b := newBound(t)
	other := newHolder(t)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	private := object{"kty": "EC", "crv": "P-256"}
	p256 := b.holder.key.(*ecdsa.PrivateKey)
	d, err := p256.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	private = jwk(t, &p256.PublicKey).with(object{"d": encode(d)})
	plain := b.issuer.valid(t)
	now := b.issuer.now

	const (
		good       = ""
		badProof   = `DPoP error="invalid_dpop_proof", algs="ES256 EdDSA PS256"`
		badToken   = `DPoP error="invalid_token", algs="ES256 EdDSA PS256"`
		notAllowed = `DPoP algs="ES256 EdDSA PS256"`
	)
	tests := map[string]struct {
		by             *holder // nil: the token's
		token          string  // empty: the bound one
		scheme         string  // empty: DPoP
		header, claims object
		challenge      string
	}{
		"good":                        {},
		"scheme in small letters":     {scheme: "dpop"},
		"address in other spelling":   {claims: object{"htu": "HTTPS://API.Example.com:443/%73tatuses"}},
		"address with query":          {claims: object{"htu": testAudience + "/statuses?a=b#c"}},
		"clock a little ahead":        {claims: object{"iat": now.Unix() + 10}},
		"fraction of a second":        {claims: object{"iat": float64(now.Unix()) + 0.25}},
		"unknown claims":              {claims: object{"nonce": "x", "exp": now.Unix() + 5}},
		"scheme Bearer":               {scheme: "Bearer", challenge: badProof},
		"token not bound":             {token: plain, challenge: notAllowed},
		"another key":                 {by: other, challenge: notAllowed},
		"another key, named as ours":  {by: other, header: object{"jwk": jwk(t, &p256.PublicKey)}, challenge: badProof},
		"Edwards key":                 {by: &holder{key: edwards, alg: jose.EdDSA}},
		"RSA key":                     {by: &holder{key: long, alg: jose.PS256}},
		"short RSA key":               {by: &holder{key: short, alg: jose.PS256}, challenge: badProof},
		"type of another JWT":         {header: object{"typ": "JWT"}, challenge: badProof},
		"no type":                     {header: object{"typ": nil}, challenge: badProof},
		"algorithm none":              {header: object{"alg": "none"}, challenge: badProof},
		"algorithm HS256":             {header: object{"alg": "HS256", "jwk": object{"kty": "oct", "k": "AAAA"}}, challenge: badProof},
		"algorithm of another key":    {header: object{"alg": "PS256"}, challenge: badProof},
		"no key":                      {header: object{"jwk": nil}, challenge: badProof},
		"private key":                 {header: object{"jwk": private}, challenge: badProof},
		"critical extension":          {header: object{"crit": []string{"x"}, "x": 1}, challenge: badProof},
		"another method":              {claims: object{"htm": "POST"}, challenge: badProof},
		"method in small letters":     {claims: object{"htm": "get"}, challenge: badProof},
		"another host":                {claims: object{"htu": "https://other.example.com/statuses"}, challenge: badProof},
		"host it is really called by": {claims: object{"htu": b.url + "/statuses"}, challenge: badProof},
		"another path":                {claims: object{"htu": testAudience + "/events"}, challenge: badProof},
		"encoded slash":               {claims: object{"htu": testAudience + "%2Fstatuses"}, challenge: badProof},
		"no TLS":                      {claims: object{"htu": "http://api.example.com/statuses"}, challenge: badProof},
		"address with a user":         {claims: object{"htu": "https://x@api.example.com/statuses"}, challenge: badProof},
		"no address":                  {claims: object{"htu": nil}, challenge: badProof},
		"no method":                   {claims: object{"htm": nil}, challenge: badProof},
		"no ID":                       {claims: object{"jti": nil}, challenge: badProof},
		"empty ID":                    {claims: object{"jti": ""}, challenge: badProof},
		"huge ID":                     {claims: object{"jti": strings.Repeat("x", 257)}, challenge: badProof},
		"no time":                     {claims: object{"iat": nil}, challenge: badProof},
		"time is text":                {claims: object{"iat": "now"}, challenge: badProof},
		"from the future":             {claims: object{"iat": now.Unix() + 11}, challenge: badProof},
		"from before the guard began": {claims: object{"iat": now.Unix() - 1}, challenge: badProof},
		"expired by its own word":     {claims: object{"exp": now.Unix()}, challenge: badProof},
		"no hash of the token":        {claims: object{"ath": nil}, challenge: badProof},
		"hash of another token":       {claims: object{"ath": encode(make([]byte, 32))}, challenge: badProof},
		"worthless token, good proof": {token: tamper(plain, 2), challenge: badToken},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			by, token, scheme := b.holder, b.token, "DPoP"
			if tt.by != nil {
				by = tt.by
			}
			if tt.by != nil && tt.challenge == good {
				token = b.issuer.token(t, b.issuer.header(), b.issuer.claims().with(object{"cnf": object{"jkt": by.thumbprint(t)}}))
			}
			if tt.token != "" {
				token = tt.token
			}
			if tt.scheme != "" {
				scheme = tt.scheme
			}
			proof := by.sign(t, by.header().with(tt.header), by.claims("GET", testAudience+"/statuses", token, now).with(tt.claims))
			resp := call(t, b.client, "GET", b.url+"/statuses?limit=1", "Authorization", scheme+" "+token, "DPoP", proof)
			challenges := resp.Header.Values("WWW-Authenticate")
			if tt.challenge == good && resp.StatusCode != http.StatusOK {
				t.Errorf("status %d, %q; want 200", resp.StatusCode, challenges)
			}
			if tt.challenge != good && (resp.StatusCode != http.StatusUnauthorized || len(challenges) != 2 || challenges[1] != tt.challenge) {
				t.Errorf("status %d, %q; want 401 and %q", resp.StatusCode, challenges, tt.challenge)
			}
		})
	}
}

// Ensure that a bound token without exactly one proof opens nothing.
func TestDPoPHeader(t *testing.T) {
	b := newBound(t)
	proof := func() string {
		return b.sign(t, b.holder.header(), b.holder.claims("GET", testAudience+"/", b.token, b.issuer.now))
	}
	for name, headers := range map[string][]string{
		"bearer without a proof": {"Authorization", "Bearer " + b.token},
		"no proof":               {"Authorization", "DPoP " + b.token},
		"two proofs":             {"Authorization", "DPoP " + b.token, "DPoP", proof(), "DPoP", proof()},
		"two proofs in one":      {"Authorization", "DPoP " + b.token, "DPoP", proof() + ", " + proof()},
		"two tokens":             {"Authorization", "DPoP " + b.token, "Authorization", "Bearer " + b.token, "DPoP", proof()},
		"empty proof":            {"Authorization", "DPoP " + b.token, "DPoP", ""},
		"token as proof":         {"Authorization", "DPoP " + b.token, "DPoP", b.token},
		"huge proof":             {"Authorization", "DPoP " + b.token, "DPoP", strings.Repeat("x", 5<<10)},
	} {
		if resp := call(t, b.client, "GET", b.url+"/", headers...); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: status %d, want 401", name, resp.StatusCode)
		}
	}
	if resp := call(t, b.client, "GET", b.url+"/", "Authorization", "DPoP "+b.token, "DPoP", proof()); resp.StatusCode != http.StatusOK {
		t.Errorf("with one proof: status %d", resp.StatusCode)
	}
}

// Ensure that a proof is taken once, as long as it could be taken at all, and
// that proofs with a stranger's key leave no trace.
func TestDPoPReplay(t *testing.T) {
	b := newBound(t)
	send := func(by *holder, proof string) int {
		return call(t, b.client, "GET", b.url+"/", "Authorization", "DPoP "+b.token, "DPoP", proof).StatusCode
	}
	claims := b.holder.claims("GET", testAudience+"/", b.token, b.issuer.now)
	claims["iat"] = b.issuer.now.Unix() + 10
	stranger := newHolder(t)
	if got := send(stranger, stranger.sign(t, stranger.header(), claims)); got != http.StatusUnauthorized {
		t.Errorf("stranger: status %d", got)
	}
	proof := b.sign(t, b.holder.header(), claims)
	if got := send(b.holder, proof); got != http.StatusOK {
		t.Fatalf("first use: status %d", got)
	}
	again := b.sign(t, b.holder.header(), claims.with(object{"extra": 1})) // another proof with the same ID
	for range 8 {
		if got := send(b.holder, proof); got != http.StatusUnauthorized {
			t.Errorf("%s: replay: status %d", b.issuer.now, got)
		}
		if got := send(b.holder, again); got != http.StatusUnauthorized {
			t.Errorf("%s: same ID: status %d", b.issuer.now, got)
		}
		b.issuer.now = b.issuer.now.Add(10 * time.Second)
	}
	late := b.sign(t, b.holder.header(), b.holder.claims("GET", testAudience+"/", b.token, b.issuer.now.Add(-time.Minute)))
	if got := send(b.holder, late); got != http.StatusUnauthorized {
		t.Errorf("a minute old: status %d", got)
	}
	late = b.sign(t, b.holder.header(), b.holder.claims("GET", testAudience+"/", b.token, b.issuer.now.Add(-59*time.Second)))
	if got := send(b.holder, late); got != http.StatusOK {
		t.Errorf("almost a minute old: status %d", got)
	}
	fresh := b.sign(t, b.holder.header(), b.holder.claims("GET", testAudience+"/", b.token, b.issuer.now))
	if got := send(b.holder, fresh); got != http.StatusOK {
		t.Errorf("fresh proof: status %d", got)
	}
}

// Ensure that a guard that cannot remember more proofs refuses further ones,
// one key not at the expense of others, until old ones may be forgotten.
func TestDPoPMemory(t *testing.T) {
	now := time.Unix(1_780_000_000, 0)
	use := guard.NewReplays(now)
	proof := func(key byte, n int) guard.DPoP {
		return guard.DPoP{Key: keyholder.KeyThumbprint{key}, ID: fmt.Sprint(n), IssuedAt: now}
	}
	key, n := byte(1), 0
	for ; key <= guard.MaxReplays/guard.MaxKeyReplays; key++ {
		for n = range guard.MaxKeyReplays {
			if err := use(proof(key, n), now); err != nil {
				t.Fatalf("key %d, proof %d: %v", key, n, err)
			}
		}
		if err := use(proof(key, n+1), now); keyholder.CodeOf(err) != keyholder.Unavailable {
			t.Fatalf("key %d, one too many: %v", key, err)
		}
	}
	if err := use(proof(key, 0), now); keyholder.CodeOf(err) != keyholder.Unavailable {
		t.Errorf("one too many in all: %v", err)
	}
	if err := use(proof(1, 0), now.Add(69*time.Second)); keyholder.CodeOf(err) != keyholder.Denied {
		t.Errorf("replay while full: %v", err)
	}
	if err := use(proof(key, 0), now.Add(70*time.Second)); err != nil {
		t.Errorf("after the old ones are forgotten: %v", err)
	}
}

// Ensure that a guard behind a proxy compares a proof with the address that
// the parties know, and that one that knows none takes no proofs.
func TestDPoPBaseURL(t *testing.T) {
	for name, tt := range map[string]struct {
		base, audience, htu string
		status              int
	}{
		"host of the audience":   {"", "https://api.example.com", "https://api.example.com/a", 200},
		"audience with a path":   {"", "https://api.example.com/v1", "https://api.example.com/a", 200},
		"base":                   {"https://public.example", "https://api.example.com", "https://public.example/a", 200},
		"base with a path":       {"https://public.example/fds/", "x", "https://public.example/fds/a", 200},
		"audience, but a base":   {"https://public.example", "https://api.example.com", "https://api.example.com/a", 401},
		"audience is no address": {"", "urn:api", "https://api.example.com/a", 401},
	} {
		i, h := newIssuer(t), newHolder(t)
		cfg := i.config()
		cfg.BaseURL, cfg.Audience = tt.base, tt.audience
		g, err := guard.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		srv := serve(t, g.Middleware(forReading, nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
		token := i.token(t, i.header(), i.claims().with(object{"aud": tt.audience, "cnf": object{"jkt": h.thumbprint(t)}}))
		resp := call(t, clientOf(t, srv), "GET", srv.URL+"/a", "Authorization", "DPoP "+token, "DPoP", h.sign(t, h.header(), h.claims("GET", tt.htu, token, i.now)))
		if resp.StatusCode != tt.status {
			t.Errorf("%s: status %d, want %d", name, resp.StatusCode, tt.status)
		}
	}
	for _, base := range []string{"http://api.example.com", "api.example.com", "https://api.example.com?x=y", "https://u@api.example.com"} {
		cfg := newIssuer(t).config()
		cfg.BaseURL = base
		if _, err := guard.New(cfg); keyholder.CodeOf(err) != keyholder.Invalid {
			t.Errorf("%s: error %v, want invalid", base, err)
		}
	}
}

// FuzzDPoP checks that no header makes the reader of proofs panic, and that
// what passes names the one key it was signed with.
func FuzzDPoP(f *testing.F) {
	h := newHolder(f)
	now := time.Unix(1_780_000_000, 0)
	valid := h.sign(f, h.header(), h.claims("GET", testAudience+"/", "x", now))
	f.Add(valid, testAudience+"/")
	f.Add("", "")
	f.Add("e30.e30.AA", "https://[::1]:443/%7e%2f")
	f.Add(encode([]byte(`{"typ":"dpop+jwt","alg":"none","jwk":{"kty":"oct","k":""}}`))+".e30.", "%")
	f.Fuzz(func(t *testing.T, raw, address string) {
		p, err := guard.ReadDPoP(http.Header{"Dpop": {raw}})
		if err == nil && raw != valid && encode(p.Key[:]) == h.thumbprint(t) {
			t.Errorf("%q passed", raw)
		}
		if err != nil && keyholder.CodeOf(err) != keyholder.Denied {
			t.Errorf("error %v, want a denial", err)
		}
		if p.ID == "" && err == nil {
			t.Error("a proof without an ID passed")
		}
		p.Address = address
		if err := p.Check(p.Method, testAudience+"/", now); err != nil && keyholder.CodeOf(err) != keyholder.Denied {
			t.Errorf("error %v, want a denial", err)
		}
	})
}

// A request with a proof costs one signature check.
func BenchmarkDPoP(b *testing.B) {
	h := newHolder(b)
	now := time.Unix(1_780_000_000, 0)
	header := http.Header{"Dpop": {h.sign(b, h.header(), h.claims("GET", testAudience+"/", "x", now))}}
	b.ReportAllocs()
	for b.Loop() {
		p, err := guard.ReadDPoP(header)
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Check("GET", testAudience+"/", now); err != nil {
			b.Fatal(err)
		}
	}
}
