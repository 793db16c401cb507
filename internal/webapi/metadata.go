package webapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

// metadataPath is where RFC 9728 (3) has the metadata of a resource whose URL
// has no path.
const metadataPath = "/.well-known/oauth-protected-resource"

// resourceMetadata is the document of RFC 9728 (2).
type resourceMetadata struct {
	Resource             string   `json:"resource"`
	AuthorizationServers []string `json:"authorization_servers"`
	Scopes               []string `json:"scopes_supported"`
	BearerMethods        []string `json:"bearer_methods_supported"`
	CertificateBound     bool     `json:"tls_client_certificate_bound_access_tokens"`
	DPoPAlgorithms       []string `json:"dpop_signing_alg_values_supported"`
	DPoPRequired         bool     `json:"dpop_bound_access_tokens_required"`
}

// describe prepares the metadata of the API.
func (a *API) describe(issuer, base string) error {
	if issuer == "" && base == "" {
		return nil
	}
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.String() != "https://"+u.Host || strings.ContainsAny(base, "\"\\@") {
		return errors.New("open the web api: the base URL is not of the form https://host[:port]")
	}
	// An issuer may have a path (RFC 8414 2).
	u, err = url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("open the web api: the issuer is not an https URL without query and fragment")
	}
	doc, err := json.MarshalIndent(resourceMetadata{
		Resource: base, AuthorizationServers: []string{issuer},
		// The scope fds:push is for the apps' webhooks.
		Scopes:           []string{keyholder.ScopeRead, keyholder.ScopeIngest},
		BearerMethods:    []string{"header"},
		CertificateBound: true,
		DPoPAlgorithms:   guard.DPoPAlgorithms(),
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("write the metadata of the web api: %w", err)
	}
	a.metadata, a.metadataURL = append(doc, '\n'), base+metadataPath
	return nil
}

// serveMetadata tells anybody how to get a token for this API.
func (a *API) serveMetadata(w *response, r *http.Request) {
	w.route = metadataPath
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		guard.WriteProblem(w, http.StatusMethodNotAllowed, string(keyholder.Invalid), "the method is not supported here", "use GET")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(a.metadata) //nolint:errcheck // the client is gone; there is nobody to tell
}

// pointToMetadata adds the address of the metadata to each challenge of a 401
// (RFC 9728 5.1), whichever part of the API wrote it.
func (w *response) pointToMetadata() {
	if w.metadataURL == "" {
		return
	}
	challenges := w.Header().Values("WWW-Authenticate")
	for i, challenge := range challenges {
		separator := " " // the first parameter of the scheme
		if strings.Contains(challenge, " ") {
			separator = ", "
		}
		challenges[i] = challenge + separator + `resource_metadata="` + w.metadataURL + `"`
	}
}
