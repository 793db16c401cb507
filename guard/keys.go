package guard

import (
	"context"
	"crypto"
	"net/http"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	// keyPause is the shortest time between two fetches of the keys, so that
	// tokens with made-up key IDs cannot be turned into a flood of requests.
	keyPause = 5 * time.Second
	// keyFresh is how long keys are used without asking again.
	keyFresh = 10 * time.Minute
	// keyGrace is how long keys are used if the issuer cannot be asked.
	keyGrace = time.Hour
	// maxKeys bounds the keys of an issuer.
	maxKeys = 64
)

// FetchKeys returns a source of keys for [Config].Keys: the issuer's metadata
// name its key set (RFC 8414), whose signing keys are kept for ten minutes.
// An unknown key ID makes it ask again at once, but at most every five
// seconds; many callers share one request. If the issuer cannot be reached,
// the keys last seen are used for up to one hour. Only https is used and no
// redirect is followed. The client is as for [Discover]; nothing is fetched
// before the first use.
func FetchKeys(issuer string, client *http.Client) func(ctx context.Context, kid string) (crypto.PublicKey, error) {
	return newKeySource(issuer, client, time.Now).key
}

// keySource is the state behind FetchKeys.
type keySource struct {
	issuer string
	client *http.Client
	now    func() time.Time

	mu      sync.Mutex // guards the fields below
	keys    map[string]crypto.PublicKey
	fetched time.Time     // when keys was had; zero: never
	tried   time.Time     // when it was last asked for
	failure error         // of the last try
	running chan struct{} // closed when the running try is over; nil: none runs
}

func newKeySource(issuer string, client *http.Client, now func() time.Time) *keySource {
	return &keySource{issuer: issuer, client: fetcher(client), now: now}
}

// key returns the key of an ID. A known key that is due for a look is used at
// once while the look goes on.
func (s *keySource) key(ctx context.Context, kid string) (crypto.PublicKey, error) {
	s.mu.Lock()
	now := s.now()
	usable := !s.fetched.IsZero() && now.Sub(s.fetched) < keyGrace
	key, known := s.keys[kid]
	if usable && known {
		if now.Sub(s.fetched) >= keyFresh {
			s.start(ctx, now)
		}
		s.mu.Unlock()
		return key, nil
	}
	running := s.start(ctx, now)
	s.mu.Unlock()
	if running != nil {
		select {
		case <-running:
		case <-ctx.Done():
			return nil, unavailable("the keys of the authorization server did not come in time", ctx.Err())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key, known = s.keys[kid]
	switch {
	case s.fetched.IsZero() || s.now().Sub(s.fetched) >= keyGrace:
		return nil, unavailable("the keys of the authorization server cannot be had", s.failure)
	case known:
		return key, nil
	case s.failure != nil:
		// The key may be a new one: it cannot be told while the issuer is away.
		return nil, unavailable("the keys of the authorization server cannot be had", s.failure)
	}
	return nil, keyholder.Errorf(keyholder.Denied, "the authorization server has no such key")
}

// start begins a try unless one runs or the last was a moment ago, and
// returns the channel that tells of the end of the running one, or nil. The
// caller holds mu. A try does not end with the request that began it, as
// others wait for it too.
func (s *keySource) start(ctx context.Context, now time.Time) chan struct{} {
	if s.running != nil {
		return s.running
	}
	if !s.tried.IsZero() && now.Sub(s.tried) < keyPause {
		return nil
	}
	done := make(chan struct{})
	s.running, s.tried = done, now
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*fetchTimeout)
	go func() {
		defer cancel()
		keys, err := fetchKeySet(ctx, s.issuer, s.client)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.failure = err; err == nil {
			s.keys, s.fetched = keys, s.now()
		}
		s.running = nil
		close(done)
	}()
	return done
}

// fetchKeySet asks the issuer for its keys.
func fetchKeySet(ctx context.Context, issuer string, client *http.Client) (map[string]crypto.PublicKey, error) {
	m, err := Discover(ctx, issuer, client)
	if err != nil {
		return nil, err
	}
	if m.JWKSURI == "" {
		return nil, keyholder.Errorf(keyholder.Invalid, "the metadata name no key set")
	}
	body, found, err := fetch(ctx, client, m.JWKSURI)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, keyholder.Errorf(keyholder.Invalid, "the issuer's key set does not exist")
	}
	return parseKeySet(body)
}

// parseKeySet reads a key set (RFC 7517 section 5). Keys that cannot sign an
// access token, or that this package does not know, are skipped; two keys of
// one ID are an error, since it would not be clear which one is meant.
func parseKeySet(body []byte) (map[string]crypto.PublicKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, invalid("the issuer's key set is malformed", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, keyholder.Errorf(keyholder.Invalid, "the issuer has more than %d keys", maxKeys)
	}
	keys := make(map[string]crypto.PublicKey)
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if json.Unmarshal(raw, &k) != nil || !k.Valid() || !k.IsPublic() || k.KeyID == "" || k.Use != "" && k.Use != "sig" {
			continue
		}
		if _, twice := keys[k.KeyID]; twice {
			return nil, keyholder.Errorf(keyholder.Invalid, "the issuer has two keys of one ID")
		}
		keys[k.KeyID] = k.Key
	}
	return keys, nil
}
