package guard

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"

	"github.com/fds-keyholder/keyholder"
)

// ErrNoToken is in the chain of the error of a request that presents no
// access token at all.
var ErrNoToken = errors.New("no access token")

// Token verifies the access token of a request, which stands in exactly one
// header "Authorization: Bearer" or "Authorization: DPoP" and nowhere else
// (RFC 6750 section 2.1, RFC 9449 section 7.1, FDS 2.6.5.1), and returns it with what the client has proved: the certificate
// that it presented in TLS, if it presented one, and the key of the DPoP proof
// that goes with the scheme DPoP. Each proof is taken once. As with
// [Guard.Verify], what the token permits is still to be asked.
//
// The errors are those of Verify; one with [ErrNoToken] in its chain means
// that there was no token.
func (g *Guard) Token(r *http.Request) (keyholder.Token, keyholder.Proof, error) {
	scheme, raw, err := credentials(r.Header)
	if err != nil {
		return keyholder.Token{}, keyholder.Proof{}, err
	}
	t, err := g.Verify(r.Context(), raw)
	if err != nil {
		return keyholder.Token{}, keyholder.Proof{}, err
	}
	var proof keyholder.Proof
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		proof.Certificate = g.thumbprints.of(r.TLS.PeerCertificates[0])
	}
	if scheme == schemeDPoP {
		proof.Key, err = g.provenKey(r, raw, t)
	} else if len(r.Header["Dpop"]) > 0 {
		err = refuseProof("a proof goes with the scheme DPoP in the Authorization header")
	}
	if err != nil {
		return keyholder.Token{}, keyholder.Proof{}, err
	}
	return t, proof, nil
}

// provenKey returns the key of the request's DPoP proof (RFC 9449 section
// 4.3). Whether it is the token's decides [keyholder.PermitToken]; a proof
// with another takes no place in the memory of used ones.
func (g *Guard) provenKey(r *http.Request, raw string, t keyholder.Token) (keyholder.KeyThumbprint, error) {
	if g.base == "" {
		return keyholder.KeyThumbprint{}, refuseProof("this server does not know the address that it is reached at")
	}
	p, err := ReadDPoP(r.Header)
	if err != nil {
		return keyholder.KeyThumbprint{}, err
	}
	now := g.cfg.Now()
	if err := p.Check(r.Method, g.base+r.URL.EscapedPath(), now); err != nil {
		return keyholder.KeyThumbprint{}, err
	}
	sum := sha256.Sum256([]byte(raw))
	if subtle.ConstantTimeCompare([]byte(p.TokenHash), []byte(base64.RawURLEncoding.EncodeToString(sum[:]))) != 1 {
		return keyholder.KeyThumbprint{}, refuseProof("it is not for this access token (ath)")
	}
	if p.Key == t.Bound.Key {
		err = g.replays.use(p, now)
	}
	return p.Key, err
}

// The schemes of the Authorization header.
const (
	schemeBearer = "Bearer"
	schemeDPoP   = "DPoP"
)

// credentials returns scheme and token of the one Authorization header.
func credentials(h http.Header) (scheme, token string, err error) {
	values := h.Values("Authorization")
	if len(values) == 0 {
		e := keyholder.Errorf(keyholder.Denied, "no access token").WithHint("send it in the header Authorization: Bearer")
		e.Err = ErrNoToken
		return "", "", e
	}
	if len(values) > 1 {
		return "", "", refuse("there is more than one Authorization header")
	}
	scheme, token, _ = strings.Cut(values[0], " ")
	switch {
	case token == "" || strings.ContainsAny(token, " ,\t"):
	case strings.EqualFold(scheme, schemeBearer):
		return schemeBearer, token, nil
	case strings.EqualFold(scheme, schemeDPoP):
		return schemeDPoP, token, nil
	}
	return "", "", refuse("the Authorization header is not of the form Bearer <token> or DPoP <token>")
}

// Challenges returns the WWW-Authenticate headers for a request refused with
// err (RFC 6750 section 3, RFC 9449 section 7.1), one for each scheme that the
// guard takes: with an error code if the token or its proof is worth nothing.
func (g *Guard) Challenges(err error) []string {
	challenges := []string{bearerChallenge(err)}
	if g.base != "" {
		code := ""
		switch {
		case errors.Is(err, errProof):
			code = `error="invalid_dpop_proof", `
		case errors.Is(err, errToken):
			code = `error="invalid_token", `
		}
		challenges = append(challenges, schemeDPoP+" "+code+`algs="`+strings.Join(DPoPAlgorithms(), " ")+`"`)
	}
	return challenges
}

func bearerChallenge(err error) string {
	if errors.Is(err, errToken) {
		return schemeBearer + ` error="invalid_token"`
	}
	return schemeBearer
}

// contextKey is the key of the token in a request's context.
type contextKey struct{}

// FromContext returns the token that [Guard.Middleware] verified.
func FromContext(ctx context.Context) (keyholder.Token, bool) {
	t, ok := ctx.Value(contextKey{}).(keyholder.Token)
	return t, ok
}

// Middleware returns a handler that lets a request through to next only if it
// carries a token that is verified, may be used by who has proved what the
// request proves ([keyholder.PermitToken]) and is permitted by permit, which
// gets the token and that proof. All three are asked
// on every request. Behind it [FromContext] returns the token.
//
// A nil permit permits nothing. refuse answers the refused requests; it gets
// an [keyholder.Error] of code Denied or Unavailable. If refuse is nil,
// [Guard.Refuse] answers.
func (g *Guard) Middleware(permit func(keyholder.Token, keyholder.Proof) keyholder.Verdict,
	refuse func(http.ResponseWriter, *http.Request, error), next http.Handler) http.Handler {
	if refuse == nil {
		refuse = g.Refuse
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, proof, err := g.Token(r)
		if err == nil {
			err = keyholder.PermitToken(t, proof, g.cfg.Now()).Err()
		}
		if err == nil {
			var v keyholder.Verdict
			if permit != nil {
				v = permit(t, proof)
			}
			err = v.Err()
		}
		if err != nil {
			refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, t)))
	})
}
