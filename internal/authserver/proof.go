package authserver

import (
	"net/http"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// DPoP (RFC 9449). A client that proves a key of its own at the token endpoint
// gets tokens that are bound to it. The library binds them and has each proof
// used once; it is lenient, though, about what a proof is for and how old it
// is, and takes a repeated header for none. So a proof is read here first, by
// the same code as on the Web API, and the library sees sound ones only.

// invalidProof is the error code of RFC 9449 section 5.
const invalidProof = "invalid_dpop_proof"

// libraryProof is how the library describes what is wrong with a proof; its
// error code is that of any malformed request.
const libraryProof = "invalid DPoP proof"

// proofAlgorithms are those of [guard.DPoPAlgorithms].
func proofAlgorithms() []goidc.SignatureAlgorithm {
	var all []goidc.SignatureAlgorithm
	for _, a := range guard.DPoPAlgorithms() {
		all = append(all, goidc.SignatureAlgorithm(a))
	}
	return all
}

// readProof reads the DPoP proof of a request, if there is one. A key that is
// proved with a pushed request is that of its code, as if the parameter
// dpop_jkt named it (RFC 9449 10.1).
func (s *Server) readProof(ex *exchange, r *http.Request) *refusal {
	if len(r.Header.Values("DPoP")) == 0 {
		return nil
	}
	if ex.endpoint != endpointToken && ex.endpoint != endpointPush {
		r.Header.Del("DPoP") // it has no meaning there
		return nil
	}
	p, err := guard.ReadDPoP(r.Header)
	if err == nil {
		err = p.Check(http.MethodPost, s.issuer+"/"+string(ex.endpoint), s.now())
	}
	if err != nil {
		return &refusal{http.StatusBadRequest, invalidProof, err.Error()}
	}
	ex.key = p.Key
	if ex.endpoint != endpointPush {
		return nil
	}
	if named := ex.form.Get(paramKey); named != "" && named != encodeKey(p.Key) {
		return &refusal{http.StatusBadRequest, invalidProof, "the DPoP proof is refused: its key is not the one that dpop_jkt names"}
	}
	ex.form.Set(paramKey, encodeKey(p.Key))
	return nil
}

// paramKey is the parameter of an authorization request that names the key
// which its code is for.
const paramKey = "dpop_jkt"

func encodeKey(k keyholder.KeyThumbprint) string { return encodeThumbprint(ledger.Digest(k)) }

// bindRefresh makes the tokens of a refresh bound to the key that it proves.
// The library does so only if the first ones were bound. A client that is
// authenticated may change its key (RFC 9449 5); once its tokens are bound it
// cannot go back to unbound ones.
func bindRefresh(ex *exchange, g *goidc.Grant) {
	if ex.key != (keyholder.KeyThumbprint{}) && g.JWKThumbprint == "" {
		g.JWKThumbprint = encodeKey(ex.key)
	}
}
