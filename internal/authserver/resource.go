package authserver

import (
	"net/http"
	"slices"
	"strings"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
)

// Resource indicators (RFC 8707). A token is for all audiences of this server
// unless the client names some of them with the parameter resource, which may
// be repeated: in the authorization request for every token that comes of it,
// in a token request for that token.

// paramResource is the only parameter that a request may repeat.
const paramResource = "resource"

// invalidTarget is the error code of RFC 8707 section 2.
const invalidTarget = string(goidc.ErrorCodeInvalidTarget)

// unknownTarget is what is told about a resource that is no audience of ours.
const unknownTarget = "resource must be one of the audiences of this server, byte for byte"

func containsAll(all, some []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

// checkTarget refuses a request that names a resource which no token of this
// server is for.
func (s *Server) checkTarget(ex *exchange) *refusal {
	if ex.endpoint == endpointToken && !containsAll(s.audiences, ex.form[paramResource]) {
		return &refusal{http.StatusBadRequest, invalidTarget, unknownTarget}
	}
	return nil
}

// granted returns the audiences that tokens of a grant may be for.
func (s *Server) granted(g *goidc.Grant) []string {
	named, _ := g.Store[keyResources].(string)
	if named == "" {
		return s.audiences
	}
	// What is no audience any more is out of reach.
	return slices.DeleteFunc(strings.Fields(named), func(a string) bool { return !slices.Contains(s.audiences, a) })
}

// narrow refuses a token request for a resource beyond those of its grant,
// before the code or the refresh token is used up.
func (s *Server) narrow(ex *exchange, g *goidc.Grant) error {
	if granted := s.granted(g); len(granted) > 0 && containsAll(granted, ex.form[paramResource]) {
		return nil
	}
	ex.refusal = &refusal{http.StatusBadRequest, invalidTarget, "the resource was not part of the authorization request"}
	return goidc.NewError(goidc.ErrorCodeInvalidTarget, ex.refusal.description)
}

// audience is the aud claim of an access token. That of a push is the webhook.
func (s *Server) audience(ex *exchange, scope string, g *goidc.Grant) goidc.Audiences {
	if sub := subscriptionOf(g); sub != "" && scope == keyholder.ScopePush {
		return goidc.Audiences{keyholder.WebhookAudience(sub)}
	}
	if named := ex.form[paramResource]; len(named) > 0 {
		return goidc.Audiences(slices.Compact(slices.Sorted(slices.Values(named))))
	}
	return s.granted(g)
}
