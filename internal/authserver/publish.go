package authserver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// readMetadata takes the library's description of the server and strikes what
// is not served: registration, user info, and second addresses for mutual TLS.
func (s *Server) readMetadata() ([]byte, error) {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.issuer+"/.well-known/openid-configuration", nil)
	if err != nil {
		return nil, fmt.Errorf("authorization server: %w", err)
	}
	a := newAnswer()
	s.library.ServeHTTP(a, r)
	var doc map[string]any
	if err := json.Unmarshal(a.body.Bytes(), &doc); err != nil || a.status != http.StatusOK {
		return nil, fmt.Errorf("authorization server: read the library's metadata: status %d, %w", a.status, err)
	}
	for _, name := range []string{"registration_endpoint", "userinfo_endpoint", "mtls_endpoint_aliases"} {
		delete(doc, name)
	}
	doc["keyholder_endings_endpoint"] = s.issuer + "/" + string(endpointEndings)
	doc["response_modes_supported"] = []string{"query"}
	doc["introspection_endpoint_auth_methods_supported"] = []string{"client_secret_basic", "client_secret_post"}
	// Their defaults would promise what is refused (OpenID Discovery 3).
	doc["request_uri_parameter_supported"] = false
	doc["request_parameter_supported"] = false
	doc["claims_parameter_supported"] = false
	if s.external {
		keep := []string{"issuer", "jwks_uri", "keyholder_endings_endpoint"}
		maps.DeleteFunc(doc, func(name string, _ any) bool { return !slices.Contains(keep, name) })
		doc["response_types_supported"] = []string{} // required by RFC 8414
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("authorization server: write metadata: %w", err)
	}
	return append(b, '\n'), nil
}

// serveMetadata answers at the addresses of OpenID Discovery and RFC 8414.
func (s *Server) serveMetadata(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(s.metadata)
}

// serveRoot gives the root certificate, which every party needs to trust.
func (s *Server) serveRoot(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(s.authority.RootPEM())
}

// crlAge is how old a revocation list may be when it is given out. Own doors
// do not use it: they ask the ledger.
const crlAge = time.Second

// revocationList is the last signed list, so that a flood of requests does
// not become a flood of signatures.
type revocationList struct {
	mu     sync.Mutex // guards the rest
	der    []byte
	signed time.Time
}

// serveCRL gives the list of revoked certificates (RFC 5280 5).
func (s *Server) serveCRL(w http.ResponseWriter, r *http.Request) {
	der, err := s.currentCRL()
	if err != nil {
		ref := newReference()
		s.log.ErrorContext(r.Context(), "the revocation list could not be signed", "reference", ref, "error", err)
		writeProblem(w, http.StatusInternalServerError, "internal error, reference "+ref)
		return
	}
	w.Header().Set("Content-Type", "application/pkix-crl")
	_, _ = w.Write(der)
}

func (s *Server) currentCRL() ([]byte, error) {
	s.crl.mu.Lock()
	defer s.crl.mu.Unlock()
	now := s.now()
	if age := now.Sub(s.crl.signed); s.crl.der != nil && age >= 0 && age < crlAge {
		return s.crl.der, nil
	}
	der, err := s.authority.CRL(s.ledger.ListRevoked(), now)
	if err != nil {
		return nil, err
	}
	s.crl.der, s.crl.signed = der, now
	return der, nil
}
