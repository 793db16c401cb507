package guard

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/go-jose/go-jose/v4"
)

const (
	// maxToken bounds a token in bytes; those of Keyholder have about 900.
	maxToken = 8 << 10
	// maxKeyID bounds a key ID in bytes.
	maxKeyID = 256

	defaultClaim     = "subscription_id"
	defaultCacheSize = 10_000
	defaultLifetime  = time.Hour
	defaultLeeway    = 10 * time.Second
	maxLeeway        = time.Minute
)

// Config says which tokens a [Guard] trusts.
type Config struct {
	// Issuer is the issuer identifier of the authorization server, compared
	// byte by byte with the claim iss. Required.
	Issuer string

	// Audience must be among the token's audiences (RFC 9068 section 4): for
	// a Web API its base URL. Either Audience or AudienceFor is required.
	Audience string

	// AudienceFor is used instead of Audience where the audience depends on
	// the subscription, as for webhooks. It gets the subscription that the
	// token names, empty if it names none, and must not return "".
	AudienceFor func(keyholder.SubscriptionID) string

	// Keys returns the issuer's public key of a key ID; see [FetchKeys]. It
	// is called for each token that is not in the cache, by several
	// goroutines at once. An [keyholder.Error] of code Denied or NotFound
	// means that there is no such key; any other error that the keys cannot
	// be had now, which the guard reports as Unavailable. Either Keys or
	// Introspection is required.
	Keys func(ctx context.Context, kid string) (crypto.PublicKey, error)

	// Introspection, instead of Keys, makes the guard ask the issuer what a
	// token is worth, whatever its form.
	Introspection *Introspection

	// Dialect says how the issuer writes its tokens. Empty means RFC9068.
	Dialect Dialect

	// Client returns the ID of the app or provider that a client of the
	// issuer stands for, empty if none: then the token is refused. It is
	// asked on every use of a token and must be fast. Nil means that the
	// issuer's client IDs are those of apps and providers.
	Client func(clientID string) string

	// Algorithms lists the allowed signature algorithms of RFC 7518 and
	// RFC 8037: ES256, ES384, ES512, EdDSA, PS256, RS256. Empty means ES256
	// alone. Unsigned and symmetric ones cannot be allowed.
	Algorithms []string

	// SubscriptionClaim names the claim that holds the subscription ID; FDS
	// does not name it. Empty means "subscription_id".
	SubscriptionClaim string

	// BaseURL is the https URL under which the parties reach what the guard
	// protects, up to the path that its handlers see. DPoP proofs (RFC 9449)
	// name the address they are for, and behind a proxy nobody else knows it.
	// Empty means the host of Audience if that is an https URL; without
	// either, tokens bound to a key are refused.
	BaseURL string

	// Ended may name tokens that were ended before they expire, for example
	// those of an ended grant. It is asked on every use of a token and must
	// be fast. May be nil.
	Ended func(keyholder.Token) bool

	// Follower, if it is not nil, knows what a Keyholder in another process
	// has ended; see [Follow]. It is asked on every use of a token.
	Follower *Follower

	// CacheSize is how many verified tokens are remembered. Zero means
	// 10,000, less than zero none.
	CacheSize int

	// MaxLifetime is the longest time between issue and expiry that a token
	// may have. It bounds how long [Guard.End] must be remembered. Zero means
	// one hour.
	MaxLifetime time.Duration

	// Leeway is how far the issuer's clock may be ahead. Zero means 10
	// seconds, less than zero none; more than one minute is refused. Expiry
	// is exact.
	Leeway time.Duration

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Guard verifies access tokens. It is safe for concurrent use.
type Guard struct {
	cfg         Config
	algorithms  []jose.SignatureAlgorithm
	dialect     dialect
	asker       *introspector // nil: tokens are verified by their signature
	cache       *cache
	base        string // what comes before the path in the address that a DPoP proof is for; empty: unknown
	replays     *replays
	endings     endings
	thumbprints thumbprints
}

// New returns a guard, or an [keyholder.Error] of code Invalid if the
// configuration is incomplete or unsafe.
func New(cfg Config) (*Guard, error) {
	switch {
	case cfg.Issuer == "":
		return nil, keyholder.Errorf(keyholder.Invalid, "the guard has no issuer to trust")
	case (cfg.Audience == "") == (cfg.AudienceFor == nil):
		return nil, keyholder.Errorf(keyholder.Invalid, "the guard needs either an audience or a function that names it")
	case (cfg.Keys == nil) == (cfg.Introspection == nil):
		return nil, keyholder.Errorf(keyholder.Invalid, "the guard needs either a source of keys or introspection").
			WithHint("use guard.FetchKeys")
	case cfg.Leeway > maxLeeway:
		return nil, keyholder.Errorf(keyholder.Invalid, "a leeway of more than %s is not safe", maxLeeway)
	case cfg.MaxLifetime < 0:
		return nil, keyholder.Errorf(keyholder.Invalid, "the longest lifetime is negative")
	}
	if cfg.SubscriptionClaim == "" {
		cfg.SubscriptionClaim = defaultClaim
	}
	if cfg.Dialect == "" {
		cfg.Dialect = RFC9068
	}
	d, known := dialects()[cfg.Dialect]
	if !known {
		return nil, keyholder.Errorf(keyholder.Invalid, "unknown dialect of access tokens")
	}
	if slices.Contains(append(registeredClaims(), d.names()...), cfg.SubscriptionClaim) {
		return nil, keyholder.Errorf(keyholder.Invalid, "the claim of the subscription ID has another meaning in RFC 9068")
	}
	if len(cfg.Algorithms) == 0 {
		cfg.Algorithms = []string{string(jose.ES256)}
	}
	var algorithms []jose.SignatureAlgorithm
	for _, a := range cfg.Algorithms {
		alg := jose.SignatureAlgorithm(a)
		if !slices.Contains(safeAlgorithms(), alg) {
			return nil, keyholder.Errorf(keyholder.Invalid, "the signature algorithm %q is not safe for access tokens", a).
				WithHint("use ES256")
		}
		algorithms = append(algorithms, alg)
	}
	if cfg.CacheSize == 0 {
		cfg.CacheSize = defaultCacheSize
	}
	if cfg.MaxLifetime == 0 {
		cfg.MaxLifetime = defaultLifetime
	}
	if cfg.Follower != nil && cfg.MaxLifetime > cfg.Follower.cfg.MaxLifetime {
		return nil, keyholder.Errorf(keyholder.Invalid, "tokens may live longer than the follower remembers what has ended").
			WithHint("give guard.Follow the same longest lifetime")
	}
	if cfg.Leeway == 0 {
		cfg.Leeway = defaultLeeway
	}
	cfg.Leeway = max(cfg.Leeway, 0)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	base, err := baseOf(cfg.BaseURL, cfg.Audience)
	if err != nil {
		return nil, err
	}
	g := &Guard{cfg: cfg, algorithms: algorithms, dialect: d, cache: newCache(cfg.CacheSize), base: base, replays: newReplays(cfg.Now())}
	if i := cfg.Introspection; i != nil {
		if cfg.Dialect != RFC9068 {
			return nil, keyholder.Errorf(keyholder.Invalid, "the answer of an introspection has no dialect: RFC 7662 names its members")
		}
		if err := checkClient(cfg.Issuer, i.ClientID); err != nil {
			return nil, err
		}
		g.asker = newIntrospector(cfg.Issuer, i.ClientID, i.Secret, i.HTTP)
	}
	return g, nil
}

// baseOf returns what comes before the path of a request in its address.
func baseOf(base, audience string) (string, error) {
	if base == "" {
		u, err := url.Parse(audience)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return "", nil
		}
		return "https://" + u.Host, nil
	}
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", keyholder.Errorf(keyholder.Invalid, "the guard's base URL is not an https URL without query and fragment")
	}
	return strings.TrimSuffix(base, "/"), nil
}

// Verify returns the content of a raw access token after checking its form,
// type, signature, issuer, audience and times, and that nothing ended it.
// What the token may be used for, and by the holder of which certificate, the
// caller must then ask of a Permit function; Verify alone permits nothing.
//
// It returns an [keyholder.Error] of code Denied if the token is worth
// nothing, and of code Unavailable if the issuer's keys cannot be had.
func (g *Guard) Verify(ctx context.Context, raw string) (keyholder.Token, error) {
	if len(raw) > maxToken {
		return keyholder.Token{}, refuse("it is longer than %d bytes", maxToken)
	}
	sum := hashOf(raw)
	now := g.cfg.Now()
	t, ok := g.cache.get(sum, now)
	if !ok {
		var err error
		var until time.Time
		if g.asker == nil {
			t, err = g.verify(ctx, raw, now)
			until = t.Expires
		} else {
			t, until, err = g.introspect(ctx, raw, now)
		}
		if err != nil {
			return keyholder.Token{}, err
		}
		g.cache.put(sum, t, until)
	}
	if g.cfg.Client != nil {
		if t.ClientID = g.cfg.Client(t.ClientID); t.ClientID == "" {
			return keyholder.Token{}, refuse("its client is not registered here")
		}
	}
	if g.endings.has(t) || g.cfg.Ended != nil && g.cfg.Ended(t) {
		return keyholder.Token{}, refuse("it was ended")
	}
	if g.cfg.Follower != nil {
		if err := g.cfg.Follower.check(ctx, raw, sum, t); err != nil {
			return keyholder.Token{}, err
		}
	}
	return t, nil
}

// verify is Verify without the cache.
func (g *Guard) verify(ctx context.Context, raw string, now time.Time) (keyholder.Token, error) {
	if !canonical(raw) {
		return keyholder.Token{}, refuse("it is not a compact JWS in canonical form")
	}
	jws, err := jose.ParseSignedCompact(raw, g.algorithms)
	if err != nil || len(jws.Signatures) != 1 {
		return keyholder.Token{}, refuse("it is not a JWS with an allowed algorithm")
	}
	header := jws.Signatures[0].Protected
	if err := checkHeader(header, g.dialect); err != nil {
		return keyholder.Token{}, err
	}
	key, err := g.key(ctx, header.KeyID)
	if err != nil {
		return keyholder.Token{}, err
	}
	if !keyFits(key, jose.SignatureAlgorithm(header.Algorithm)) {
		return keyholder.Token{}, refuse("its algorithm does not fit the key")
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return keyholder.Token{}, refuse("its signature is wrong")
	}
	c, err := parseClaims(payload, g.cfg.SubscriptionClaim, g.dialect)
	if err != nil {
		return keyholder.Token{}, err
	}
	if err := g.checkClaims(c, now); err != nil {
		return keyholder.Token{}, err
	}
	c.token.Key = header.KeyID
	return c.token, nil
}

// key asks for the issuer's key and sorts the failures.
func (g *Guard) key(ctx context.Context, kid string) (crypto.PublicKey, error) {
	key, err := g.cfg.Keys(ctx, kid)
	if err == nil && key != nil {
		return key, nil
	}
	if code := keyholder.CodeOf(err); err == nil || code == keyholder.Denied || code == keyholder.NotFound {
		return nil, refuse("the issuer has no such key")
	}
	e := keyholder.Errorf(keyholder.Unavailable, "the keys of the authorization server cannot be had")
	e.Err = err
	return nil, e
}

// checkClaims checks what RFC 9068 section 4 asks of the content.
func (g *Guard) checkClaims(c claims, now time.Time) error {
	audience := g.cfg.Audience
	if g.cfg.AudienceFor != nil {
		audience = g.cfg.AudienceFor(c.token.Subscription)
	}
	latest := now.Add(g.cfg.Leeway)
	switch t := c.token; {
	case t.Issuer != g.cfg.Issuer:
		return refuse("it is from another issuer")
	case audience == "" || !slices.Contains(c.audience, audience):
		return refuse("it is for another audience")
	case !now.Before(t.Expires):
		return refuse("it has expired")
	case c.notBefore.After(latest):
		return refuse("it is not valid yet")
	case t.IssuedAt.After(latest):
		return refuse("it was issued in the future")
	case !t.Expires.After(t.IssuedAt):
		return refuse("it expires before it was issued")
	case t.Expires.Sub(t.IssuedAt) > g.cfg.MaxLifetime:
		return refuse("it lives longer than %s", g.cfg.MaxLifetime)
	}
	return nil
}

// checkHeader checks the protected header: the type, so that no ID token
// passes for an access token (RFC 9068 section 4), a key ID, and no
// extension that changes how the signature is to be read.
func checkHeader(h jose.Header, d dialect) error {
	typ, _ := h.ExtraHeaders[jose.HeaderType].(string)
	_, critical := h.ExtraHeaders["crit"]
	_, encoding := h.ExtraHeaders["b64"]
	switch {
	case !d.typeAccepted(typ):
		return refuse("its type is not that of an access token")
	case h.KeyID == "" || len(h.KeyID) > maxKeyID:
		return refuse("it names no key")
	case critical || encoding:
		return refuse("it has an unknown critical extension")
	}
	return nil
}

// errToken is in the chain of every refusal of a token that was presented.
var errToken = errors.New("token refused")

// refuse returns the error of a token that is worth nothing. The reason is
// about the form the token has, never its content.
func refuse(format string, args ...any) error {
	e := keyholder.Errorf(keyholder.Denied, "the access token is refused: %s", fmt.Sprintf(format, args...))
	e.Err = errToken
	return e
}
