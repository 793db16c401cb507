package authserver

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/luikyv/go-oidc/pkg/goidc"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// roleOf says what the party with that client ID is; empty if there is none
// in force.
func (s *Server) roleOf(id string) keyholder.Role {
	if app := s.ledger.App(keyholder.AppID(id)); app.ID != "" && app.Cut.IsZero() {
		return keyholder.RoleApp
	}
	if p := s.ledger.Provider(keyholder.ProviderID(id)); p.ID != "" && p.Cut.IsZero() {
		return keyholder.RoleProvider
	}
	if s.ledger.ResourceServer(keyholder.ResourceServerID(id)).ID != "" {
		return keyholder.RoleResourceServer
	}
	return ""
}

// Client describes a party to the library as the ledger knows it at this
// moment. It is asked anew on every request, so a cut, a new app or a new key
// needs no reload. The library allows one way of authentication per client;
// which one it is for this request is settled here.
func (m *manager) Client(ctx context.Context, id string) (*goidc.Client, error) {
	ex := exchangeOf(ctx)
	c := &goidc.Client{ID: id, Secret: id} // the verifier gets Secret as "stored": the ID is all it needs
	c.TokenAuthnMethod = goidc.AuthnMethodSecretPost
	if ex.method != "" {
		c.TokenAuthnMethod = ex.method
	}
	switch m.roleOf(id) {
	case keyholder.RoleApp:
		app := m.ledger.App(keyholder.AppID(id))
		describeApp(c, app)
		switch app.Authentication {
		case keyholder.AuthCertificate, keyholder.AuthSelfSigned:
			m.byCertificate(ex, c, keyholder.ForApp)
		case keyholder.AuthKey:
			if err := m.byAssertion(ex, c, app); err != nil {
				return nil, err
			}
		}
	case keyholder.RoleProvider:
		c.Name = m.ledger.Provider(keyholder.ProviderID(id)).Name
		c.GrantTypes = []goidc.GrantType{goidc.GrantClientCredentials}
		c.ScopeIDs = keyholder.ScopeIngest + " " + keyholder.ScopePush
		if ex.method == "" {
			m.byCertificate(ex, c, keyholder.ForProvider)
		}
	case keyholder.RoleResourceServer:
		c.Name = m.ledger.ResourceServer(keyholder.ResourceServerID(id)).Name
	default:
		return nil, goidc.ErrNotFound
	}
	return c, nil
}

func describeApp(c *goidc.Client, app keyholder.App) {
	c.Name = app.Name
	c.RedirectURIs = app.RedirectURIs
	c.ScopeIDs = goidc.ScopeOpenID.ID + " " + keyholder.ScopeRead
	for _, g := range app.Grants {
		c.GrantTypes = append(c.GrantTypes, goidc.GrantType(g))
	}
	if slices.Contains(app.Grants, keyholder.GrantAuthorizationCode) {
		c.ResponseTypes = []goidc.ResponseType{goidc.ResponseTypeCode}
	}
}

// byCertificate makes a certificate the client's method (RFC 8705 2). The
// library compares the subject of the presented certificate, which anybody can
// copy, or the certificate with those it is given. So the very certificate must
// be on record in the ledger, for this use and this client, and good at this
// moment; the handshake has proved that the peer holds its key. Of one that we
// issued the library compares the subject as well.
func (m *manager) byCertificate(ex *exchange, c *goidc.Client, use keyholder.CertificateUse) {
	c.TokenAuthnMethod = goidc.AuthnMethodTLS
	c.TLSSubjectDistinguishedName = "CN=" + c.ID
	c.TLSTokenBindingRequired = true
	peer, ok := m.certify(ex, c.ID, use)
	if !ok {
		return
	}
	if peer.Certificate.Origin != keyholder.OriginIssued {
		c.TokenAuthnMethod = goidc.AuthnMethodSelfSignedTLS
		c.JWKS = &goidc.JSONWebKeySet{Keys: []goidc.JSONWebKey{{Key: ex.peer.PublicKey, CertificateThumbprintSHA256: peer.Certificate.Thumbprint[:]}}}
	}
	m.authenticated(ex, c.ID)
}

// certify notes whether the presented certificate is on record for the client
// and good at this moment.
func (s *Server) certify(ex *exchange, client string, use keyholder.CertificateUse) (ledger.Peer, bool) {
	if ex.peer == nil {
		return ledger.Peer{}, false
	}
	peer := s.ledger.Peer(keyholder.ThumbprintOf(ex.peer.Raw))
	ex.certified = peer.Permit(s.now()).Allowed && peer.Certificate.Use == use && peer.Certificate.Subject == client
	return peer, ex.certified
}

// verifySecret is the library's check of a client secret; stored is the
// client's ID, put there by Client.
func (s *Server) verifySecret(ctx context.Context, stored, presented string) error {
	if !s.ledger.VerifySecret(stored, presented) {
		return errors.New("the client secret is wrong")
	}
	ex := exchangeOf(ctx)
	s.authenticated(ex, stored)
	if ex.refusal != nil {
		return errors.New("the client may not use this endpoint")
	}
	return nil
}

// authenticated notes who is asking and refuses what the party may not ask
// before the library looks at the token, so that nobody learns what exists.
func (s *Server) authenticated(ex *exchange, id string) {
	ex.client, ex.role = id, s.roleOf(id)
	if ex.endpoint != endpointIntrospect {
		return
	}
	if v := keyholder.PermitIntrospect(ex.role); !v.Allowed {
		ex.refusal = &refusal{http.StatusForbidden, string(goidc.ErrorCodeAccessDenied), v.Reason}
	}
}

// SaveClient is part of the library's registration manager and never allowed.
func (m *manager) SaveClient(context.Context, *goidc.Client) error {
	return errors.New("clients are registered by the administrator")
}

// DeleteClient is part of the library's registration manager and never allowed.
func (m *manager) DeleteClient(context.Context, string) error {
	return errors.New("clients are registered by the administrator")
}
