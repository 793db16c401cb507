package console

import (
	"context"
	"encoding/json"
	"time"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/pki"
)

// NewApp asks to register a client application.
type NewApp struct {
	Name           string                    `json:"name"`
	Profile        keyholder.Profile         `json:"profile,omitempty"` // empty: fds
	Grants         []keyholder.GrantType     `json:"grants"`
	Authentication keyholder.AuthMethod      `json:"authentication"`
	Keys           json.RawMessage           `json:"keys,omitempty"`        // for private_key_jwt: a JWK set of public keys
	Certificate    string                    `json:"certificate,omitempty"` // for self_signed_tls_client_auth: PEM
	Pinned         keyholder.PinnedAuthority `json:"pinned_authority,omitzero"`
	RedirectURIs   []string                  `json:"redirect_uris"`
	PushedOnly     bool                      `json:"require_pushed_authorization_requests,omitempty"`
}

// AddedApp is a registered app, with its secret if it has one. The secret is
// not kept and is shown this one time.
type AddedApp struct {
	App    keyholder.App `json:"app"`
	Secret string        `json:"secret,omitempty"`
}

// NewAppKeys asks to replace the public keys of an app.
type NewAppKeys struct {
	App  string          `json:"app"`
	Keys json.RawMessage `json:"keys"` // a JWK set
}

// NewAppCertificate asks to record a further certificate that an app made
// itself.
type NewAppCertificate struct {
	App         string `json:"app"`
	Certificate string `json:"certificate"` // PEM
}

// NewAppRevocationLists asks to replace the revocation lists of the authority
// that is pinned for an app.
type NewAppRevocationLists struct {
	App   string `json:"app"`
	Lists string `json:"lists"` // PEM
}

// AppRevocationLists says what came of new revocation lists.
type AppRevocationLists struct {
	App      keyholder.AppID     `json:"app"`
	Until    time.Time           `json:"until"`    // when the first of them ends
	Receipts []keyholder.Receipt `json:"receipts"` // of the certificates on record that they have
}

func (c *Console) listApps(context.Context) ([]keyholder.App, error) {
	return c.ledger.ListApps(), nil
}

func (c *Console) app(_ context.Context, id string) (keyholder.App, error) {
	return byID(id, "app", c.ledger.App, func(a keyholder.App) bool { return a.ID != "" })
}

func (c *Console) addApp(ctx context.Context, q NewApp) (AddedApp, error) {
	app := keyholder.App{Name: q.Name, Profile: q.Profile, Grants: q.Grants, Authentication: q.Authentication, Pinned: q.Pinned,
		RedirectURIs: q.RedirectURIs, PushedOnly: q.PushedOnly}
	var err error
	if len(q.Keys) > 0 {
		if app.Keys, err = keyholder.ParseClientKeys(q.Keys); err != nil {
			return AddedApp{}, err
		}
	}
	if q.Pinned.PEM != "" {
		if err := pki.CheckPinned([]byte(q.Pinned.PEM), c.now()); err != nil {
			return AddedApp{}, err
		}
		if q.Pinned.RevocationLists != "" {
			if err := pki.CheckRevocationLists(q.Pinned, "", c.now()); err != nil {
				return AddedApp{}, err
			}
		}
	}
	if (q.Authentication == keyholder.AuthSelfSigned) != (q.Certificate != "") {
		return AddedApp{}, keyholder.Errorf(keyholder.Invalid, "an app brings a certificate if, and only if, it authenticates by %s", keyholder.AuthSelfSigned)
	}
	if q.Certificate != "" {
		if err := c.checkSelfSigned(q.Certificate); err != nil {
			return AddedApp{}, err
		}
	}
	if app, err = c.ledger.AddApp(ctx, ledger.Administrator, app); err != nil {
		return AddedApp{}, err
	}
	added := AddedApp{App: app}
	switch app.Authentication {
	case keyholder.AuthSecret:
		added.Secret, err = c.ledger.AddSecret(ctx, ledger.Administrator, string(app.ID))
	case keyholder.AuthSelfSigned:
		_, err = c.recordSelfSigned(ctx, app.ID, q.Certificate)
	}
	return added, err
}

// checkSelfSigned says what is wrong with a certificate before the app is
// registered that brings it.
func (c *Console) checkSelfSigned(text string) error {
	record, err := pki.ParseSelfSigned([]byte(text), "")
	switch {
	case err != nil:
		return err
	case c.ledger.Certificate(record.Thumbprint).Serial != "":
		return keyholder.Errorf(keyholder.Conflict, "that certificate is on record already").WithHint("every app makes a key and a certificate of its own")
	case c.now().After(record.NotAfter):
		return keyholder.Errorf(keyholder.Invalid, "the certificate has ended")
	}
	return nil
}

func (c *Console) recordSelfSigned(ctx context.Context, app keyholder.AppID, text string) (keyholder.Certificate, error) {
	record, err := pki.ParseSelfSigned([]byte(text), app)
	if err != nil {
		return keyholder.Certificate{}, err
	}
	if err := c.ledger.AddCertificate(ctx, ledger.Administrator, record, text); err != nil {
		return keyholder.Certificate{}, err
	}
	return c.ledger.Certificate(record.Thumbprint), nil
}

func (c *Console) replaceAppKeys(ctx context.Context, q NewAppKeys) (keyholder.App, error) {
	id, err := parseID[keyholder.AppID]("app", q.App)
	if err != nil {
		return keyholder.App{}, err
	}
	keys, err := keyholder.ParseClientKeys(q.Keys)
	if err != nil {
		return keyholder.App{}, err
	}
	return c.ledger.ReplaceKeys(ctx, ledger.Administrator, id, keys)
}

// replaceAppRevocationLists takes new lists and ends, everywhere, the
// certificates of the app on record that are in them. Those that never came
// here are refused in the handshake.
func (c *Console) replaceAppRevocationLists(ctx context.Context, q NewAppRevocationLists) (AppRevocationLists, error) {
	app, err := c.app(ctx, q.App)
	if err != nil {
		return AppRevocationLists{}, err
	}
	pinned := app.Pinned
	pinned.RevocationLists = q.Lists
	if err := pki.CheckRevocationLists(pinned, app.Pinned.RevocationLists, c.now()); err != nil {
		return AppRevocationLists{}, err
	}
	until := pki.RevocationListsEnd(pinned)
	if app, err = c.ledger.ReplaceRevocationLists(ctx, ledger.Administrator, app.ID, q.Lists, until); err != nil {
		return AppRevocationLists{}, err
	}
	done := AppRevocationLists{App: app.ID, Until: until, Receipts: []keyholder.Receipt{}}
	for _, k := range c.ledger.ListCertificates() {
		if k.Origin != keyholder.OriginPinned || k.Subject != string(app.ID) || !k.Revoked.IsZero() {
			continue
		}
		text, err := c.ledger.CertificatePEM(ctx, k.Serial)
		if err != nil {
			return done, err
		}
		revoked, err := pki.Revoked(app.Pinned, text)
		if err != nil {
			return done, err
		}
		if !revoked {
			continue
		}
		r, err := c.ledger.Cut(ctx, ledger.Administrator, keyholder.Target{Kind: keyholder.CutCertificate, ID: k.Serial}, "revoked by its authority")
		if err != nil {
			return done, err
		}
		done.Receipts = append(done.Receipts, r)
	}
	return done, nil
}

func (c *Console) addAppCertificate(ctx context.Context, q NewAppCertificate) (CertificateText, error) {
	id, err := parseID[keyholder.AppID]("app", q.App)
	if err != nil {
		return CertificateText{}, err
	}
	record, err := c.recordSelfSigned(ctx, id, q.Certificate)
	if err != nil {
		return CertificateText{}, err
	}
	return CertificateText{Certificate: c.describeCertificate(record), PEM: q.Certificate}, nil
}
