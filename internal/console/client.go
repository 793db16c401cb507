package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// Bounds of what the client waits for and reads.
const (
	clientTimeout = time.Minute
	maxAnswer     = 256 << 20
)

// Client talks to the server of a data folder. It is safe for concurrent use.
// Its methods return the [keyholder.Error] that the server answered, or one
// of code Unavailable if the server went away.
type Client struct {
	http *http.Client
}

// Dial returns a client of the server that serves a data folder. Errors:
// Unavailable, with a hint, if there is none.
func Dial(dir string) (*Client, error) {
	connect := func(ctx context.Context) (net.Conn, error) {
		var conn net.Conn
		err := throughFolder(dir, func(path string) error {
			var err error
			conn, err = new(net.Dialer).DialContext(ctx, "unix", path)
			return err
		})
		return conn, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := connect(ctx)
	if err != nil {
		return nil, noServer(dir, err)
	}
	if err := conn.Close(); err != nil {
		return nil, fmt.Errorf("close a connection: %w", err)
	}
	return &Client{http: &http.Client{Timeout: clientTimeout, Transport: &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return connect(ctx) },
		MaxIdleConns:    1,
		IdleConnTimeout: 10 * time.Second,
	}}}, nil
}

// noServer says why the server of a folder cannot be reached.
func noServer(dir string, err error) error {
	if keyholder.CodeOf(err) != "" {
		return err
	}
	e := &keyholder.Error{Code: keyholder.Unavailable, Detail: "no server answers for the data folder " + dir, Err: err,
		Hint: "start one with `keyholder serve -data " + dir + "`"}
	switch _, statErr := os.Stat(dir); {
	case errors.Is(statErr, fs.ErrNotExist):
		e.Detail = "there is no data folder " + dir
		e.Hint = "name it with -data or KEYHOLDER_DATA, or create one with `keyholder init -data " + dir + "`"
	case errors.Is(err, fs.ErrPermission):
		e.Detail = "the admin socket in " + dir + " may be used by its owner only"
		e.Hint = "run the command as the user that runs `keyholder serve`"
	}
	return e
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Providers lists all providers, oldest first; the other lists do the same.
func (c *Client) Providers(ctx context.Context) ([]keyholder.Provider, error) {
	return get[[]keyholder.Provider](ctx, c, "providers", nil)
}

// Provider returns one provider.
func (c *Client) Provider(ctx context.Context, id string) (keyholder.Provider, error) {
	return get[keyholder.Provider](ctx, c, "providers/"+url.PathEscape(id), nil)
}

// AddProvider registers a provider.
func (c *Client) AddProvider(ctx context.Context, q NewProvider) (keyholder.Provider, error) {
	return send[keyholder.Provider](ctx, c, "providers", q)
}

// Owners lists all owners.
func (c *Client) Owners(ctx context.Context) ([]keyholder.Owner, error) {
	return get[[]keyholder.Owner](ctx, c, "owners", nil)
}

// Owner returns one owner, by key or ID.
func (c *Client) Owner(ctx context.Context, keyOrID string) (keyholder.Owner, error) {
	return get[keyholder.Owner](ctx, c, "owners/"+url.PathEscape(keyOrID), nil)
}

// AddOwner registers an owner.
func (c *Client) AddOwner(ctx context.Context, q NewOwner) (keyholder.Owner, error) {
	return send[keyholder.Owner](ctx, c, "owners", q)
}

// Users lists all users.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	return get[[]User](ctx, c, "users", nil)
}

// User returns one user.
func (c *Client) User(ctx context.Context, id string) (User, error) {
	return get[User](ctx, c, "users/"+url.PathEscape(id), nil)
}

// AddUser registers a user.
func (c *Client) AddUser(ctx context.Context, q NewUser) (User, error) {
	return send[User](ctx, c, "users", q)
}

// Apps lists all apps.
func (c *Client) Apps(ctx context.Context) ([]keyholder.App, error) {
	return get[[]keyholder.App](ctx, c, "apps", nil)
}

// App returns one app.
func (c *Client) App(ctx context.Context, id string) (keyholder.App, error) {
	return get[keyholder.App](ctx, c, "apps/"+url.PathEscape(id), nil)
}

// AddApp registers an app.
func (c *Client) AddApp(ctx context.Context, q NewApp) (AddedApp, error) {
	return send[AddedApp](ctx, c, "apps", q)
}

// ReplaceAppKeys replaces the public keys of an app.
func (c *Client) ReplaceAppKeys(ctx context.Context, q NewAppKeys) (keyholder.App, error) {
	return send[keyholder.App](ctx, c, "app-keys", q)
}

// ReplaceAppRevocationLists replaces the revocation lists of the authority
// that is pinned for an app.
func (c *Client) ReplaceAppRevocationLists(ctx context.Context, q NewAppRevocationLists) (AppRevocationLists, error) {
	return send[AppRevocationLists](ctx, c, "app-revocation-lists", q)
}

// AddAppCertificate records a further certificate that an app made itself.
func (c *Client) AddAppCertificate(ctx context.Context, q NewAppCertificate) (CertificateText, error) {
	return send[CertificateText](ctx, c, "app-certificates", q)
}

// ResourceServers lists all resource servers.
func (c *Client) ResourceServers(ctx context.Context) ([]keyholder.ResourceServer, error) {
	return get[[]keyholder.ResourceServer](ctx, c, "resource-servers", nil)
}

// ResourceServer returns one resource server.
func (c *Client) ResourceServer(ctx context.Context, id string) (keyholder.ResourceServer, error) {
	return get[keyholder.ResourceServer](ctx, c, "resource-servers/"+url.PathEscape(id), nil)
}

// AddResourceServer registers a resource server.
func (c *Client) AddResourceServer(ctx context.Context, q NewResourceServer) (AddedResourceServer, error) {
	return send[AddedResourceServer](ctx, c, "resource-servers", q)
}

// AddSecret draws a further secret of a client.
func (c *Client) AddSecret(ctx context.Context, client string) (AddedSecret, error) {
	return send[AddedSecret](ctx, c, "secrets", NewSecret{Client: client})
}

// Agreements lists all agreements.
func (c *Client) Agreements(ctx context.Context) ([]Agreement, error) {
	return get[[]Agreement](ctx, c, "agreements", nil)
}

// Agreement returns one agreement.
func (c *Client) Agreement(ctx context.Context, id string) (Agreement, error) {
	return get[Agreement](ctx, c, "agreements/"+url.PathEscape(id), nil)
}

// AddAgreement records an agreement.
func (c *Client) AddAgreement(ctx context.Context, q NewAgreement) (Agreement, error) {
	return send[Agreement](ctx, c, "agreements", q)
}

// Consents lists all consents.
func (c *Client) Consents(ctx context.Context) ([]Consent, error) {
	return get[[]Consent](ctx, c, "consents", nil)
}

// Consent returns one consent.
func (c *Client) Consent(ctx context.Context, id string) (Consent, error) {
	return get[Consent](ctx, c, "consents/"+url.PathEscape(id), nil)
}

// Subscriptions lists all subscriptions.
func (c *Client) Subscriptions(ctx context.Context) ([]Subscription, error) {
	return get[[]Subscription](ctx, c, "subscriptions", nil)
}

// Subscription returns one subscription with everything that hangs on it.
func (c *Client) Subscription(ctx context.Context, id string) (SubscriptionDetail, error) {
	return get[SubscriptionDetail](ctx, c, "subscriptions/"+url.PathEscape(id), nil)
}

// AddSubscription records a consent from the written agreement and with it a
// subscription.
func (c *Client) AddSubscription(ctx context.Context, q NewSubscription) (Subscription, error) {
	return send[Subscription](ctx, c, "subscriptions", q)
}

// Authority returns the root certificate.
func (c *Client) Authority(ctx context.Context) (Authority, error) {
	return get[Authority](ctx, c, "authority", nil)
}

// RotateKey publishes a new signing key that takes over after a lead.
func (c *Client) RotateKey(ctx context.Context) (RotatedKey, error) {
	return send[RotatedKey](ctx, c, "keys", NewKey{})
}

// RetireKey takes a signing key out of use at once.
func (c *Client) RetireKey(ctx context.Context, q KeyRetirement) (RetiredKey, error) {
	return send[RetiredKey](ctx, c, "key-retirements", q)
}

// Keys returns the public keys that verify tokens and receipts (RFC 7517),
// retired ones with the member revoked.
func (c *Client) Keys(ctx context.Context) (json.RawMessage, error) {
	return get[json.RawMessage](ctx, c, "keys", nil)
}

// Certificates lists all client certificates.
func (c *Client) Certificates(ctx context.Context) ([]Certificate, error) {
	return get[[]Certificate](ctx, c, "certificates", nil)
}

// Certificate returns one client certificate, by serial, with its PEM form.
func (c *Client) Certificate(ctx context.Context, serial string) (CertificateText, error) {
	return get[CertificateText](ctx, c, "certificates/"+url.PathEscape(serial), nil)
}

// IssueCertificate asks for a client certificate.
func (c *Client) IssueCertificate(ctx context.Context, q NewCertificate) (CertificateText, error) {
	return send[CertificateText](ctx, c, "certificates", q)
}

// Webhooks lists all webhook targets.
func (c *Client) Webhooks(ctx context.Context) ([]Webhook, error) {
	return get[[]Webhook](ctx, c, "webhooks", nil)
}

// Webhook returns one webhook target.
func (c *Client) Webhook(ctx context.Context, id string) (Webhook, error) {
	return get[Webhook](ctx, c, "webhooks/"+url.PathEscape(id), nil)
}

// AddWebhook registers a webhook target.
func (c *Client) AddWebhook(ctx context.Context, q NewWebhook) (Webhook, error) {
	return send[Webhook](ctx, c, "webhooks", q)
}

// Cut ends a right everywhere and returns the receipt.
func (c *Client) Cut(ctx context.Context, q NewCut) (keyholder.Receipt, error) {
	return send[keyholder.Receipt](ctx, c, "cuts", q)
}

// Receipts lists all receipts.
func (c *Client) Receipts(ctx context.Context) ([]keyholder.Receipt, error) {
	return get[[]keyholder.Receipt](ctx, c, "receipts", nil)
}

// Receipt returns one receipt.
func (c *Client) Receipt(ctx context.Context, id string) (keyholder.Receipt, error) {
	return get[keyholder.Receipt](ctx, c, "receipts/"+url.PathEscape(id), nil)
}

// Audit returns up to limit rows of the audit trail after a sequence number.
func (c *Client) Audit(ctx context.Context, after int64, limit int) ([]keyholder.Event, error) {
	return get[[]keyholder.Event](ctx, c, "audit", url.Values{
		"after": {strconv.FormatInt(after, 10)}, "limit": {strconv.Itoa(limit)}})
}

// VerifyAudit follows the hash chain of the audit trail. A broken trail is an
// error of code Conflict.
func (c *Client) VerifyAudit(ctx context.Context) (AuditState, error) {
	return get[AuditState](ctx, c, "audit/verify", nil)
}

// Why asks for the verdict on a question. The parameters are subscription,
// action, kind, topic, cert, client_id and grant; empty ones are left out.
func (c *Client) Why(ctx context.Context, parameters map[string]string) (Explanation, error) {
	values := url.Values{}
	for name, v := range parameters {
		if v != "" {
			values.Set(name, v)
		}
	}
	return get[Explanation](ctx, c, "why", values)
}

// Expiring returns what ends within a time.
func (c *Client) Expiring(ctx context.Context, within time.Duration) ([]Expiry, error) {
	return get[[]Expiry](ctx, c, "expiring", url.Values{"within": {within.String()}})
}

func get[A any](ctx context.Context, c *Client, path string, query url.Values) (A, error) {
	return call[A](ctx, c, http.MethodGet, path, query, nil)
}

func send[A any](ctx context.Context, c *Client, path string, q any) (A, error) {
	body, err := json.Marshal(q)
	if err != nil {
		var none A
		return none, fmt.Errorf("write a request: %w", err)
	}
	return call[A](ctx, c, http.MethodPost, path, nil, body)
}

func call[A any](ctx context.Context, c *Client, method, path string, query url.Values, body []byte) (A, error) {
	var answer, none A
	address := "http://keyholder" + base + path // the name is never resolved
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return none, fmt.Errorf("make a request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return none, &keyholder.Error{Code: keyholder.Unavailable, Detail: "the server did not answer", Hint: "look at its log; it may have stopped", Err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return none, &keyholder.Error{Code: keyholder.Unavailable, Detail: "the server's answer broke off", Err: err}
	}
	if resp.StatusCode >= 400 {
		return none, problem(resp.StatusCode, text)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return none, fmt.Errorf("read the server's answer: %w", err)
	}
	return answer, nil
}

// problem turns a problem document back into the error it was made of.
func problem(status int, text []byte) error {
	var p struct {
		Code   keyholder.Code `json:"code"`
		Detail string         `json:"detail"`
		Hint   string         `json:"hint"`
	}
	if err := json.Unmarshal(text, &p); err != nil || p.Detail == "" {
		return fmt.Errorf("the server answered with status %d", status)
	}
	switch p.Code {
	case keyholder.Invalid, keyholder.Denied, keyholder.NotFound, keyholder.Conflict, keyholder.Unavailable:
		return &keyholder.Error{Code: p.Code, Detail: p.Detail, Hint: p.Hint}
	}
	return fmt.Errorf("the server failed: %s (%s)", p.Detail, p.Hint)
}
