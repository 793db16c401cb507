package guard

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/fds-keyholder/keyholder"
)

// ErrNoToken is in the chain of the error of a request that presents no
// access token at all.
var ErrNoToken = errors.New("no access token")

// Token verifies the access token of a request, which stands in exactly one
// header "Authorization: Bearer" and nowhere else (RFC 6750 section 2.1, FDS
// 2.6.5.1), and returns it with what the client has proved: the certificate
// that it presented in TLS, if it presented one. As with
// [Guard.Verify], what the token permits is still to be asked.
//
// The errors are those of Verify; one with [ErrNoToken] in its chain means
// that there was no token.
func (g *Guard) Token(r *http.Request) (keyholder.Token, keyholder.Proof, error) {
	raw, err := bearer(r.Header)
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
	return t, proof, nil
}

// bearer returns the token of the one Authorization header.
func bearer(h http.Header) (string, error) {
	values := h.Values("Authorization")
	if len(values) == 0 {
		e := keyholder.Errorf(keyholder.Denied, "no access token").WithHint("send it in the header Authorization: Bearer")
		e.Err = ErrNoToken
		return "", e
	}
	if len(values) > 1 {
		return "", refuse("there is more than one Authorization header")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" || strings.ContainsAny(token, " ,\t") {
		return "", refuse("the Authorization header is not of the form Bearer <token>")
	}
	return token, nil
}

// Challenge returns the WWW-Authenticate header for a request refused with
// err (RFC 6750 section 3): without an error code if no token was presented.
func Challenge(err error) string {
	if errors.Is(err, errToken) {
		return `Bearer error="invalid_token"`
	}
	return "Bearer"
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
// [Refuse] answers.
func (g *Guard) Middleware(permit func(keyholder.Token, keyholder.Proof) keyholder.Verdict,
	refuse func(http.ResponseWriter, *http.Request, error), next http.Handler) http.Handler {
	if refuse == nil {
		refuse = Refuse
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
