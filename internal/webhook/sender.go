package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
)

// maxAnswer bounds what is read of a receiver's answer, in bytes.
const maxAnswer = 64 << 10

// sender makes the requests to one webhook. It is used by one goroutine.
type sender struct {
	cfg  Config
	hook ledger.Webhook

	credential credential
	client     *http.Client   // nil: not made yet
	server     serverMetadata // empty: not discovered yet
	token      string         // empty: none
	renew      time.Time      // when the token is no longer used
}

func newSender(c Config, h ledger.Webhook) *sender { return &sender{cfg: c, hook: h} }

// send posts one message if permit, asked at the last moment, lets it. nil
// means that the receiver has taken it.
func (s *sender) send(ctx context.Context, m mailbox.Message, permit func(mailbox.Message) error) error {
	fresh, err := s.authorize(ctx)
	if err != nil {
		return err
	}
	post := func() error {
		if err := permit(m); err != nil {
			return err
		}
		return s.post(ctx, m)
	}
	err = post()
	if f := new(statusError); !fresh && errors.As(err, &f) && f.status == http.StatusUnauthorized {
		// The token may have been ended over there: once more with a new one.
		s.token = ""
		if _, err := s.authorize(ctx); err != nil {
			return err
		}
		err = post()
	}
	if f := new(statusError); errors.As(err, &f) && f.status == http.StatusUnauthorized {
		s.token = ""
	}
	return err
}

// authorize makes sure that there is a token, and says whether it is new. The
// files are read for each new token, so a replaced one counts.
func (s *sender) authorize(ctx context.Context) (bool, error) {
	if s.token != "" && s.cfg.Now().Before(s.renew) {
		return false, nil
	}
	s.token = ""
	c, err := readCredential(Dir(s.cfg.Dir, s.hook.ID), s.cfg.Seal, s.cfg.RootCAs)
	if err != nil {
		return false, err
	}
	if s.client == nil || !bytes.Equal(c.raw, s.credential.raw) {
		s.close()
		s.credential, s.client = c, newClient(s.cfg, c)
	}
	if s.server.Token == "" {
		if s.server, err = discover(ctx, s.client, s.hook.Issuer); err != nil {
			return false, err
		}
	}
	t, err := fetchToken(ctx, s.client, s.server, s.hook.Client, c, s.hook.Subscription)
	if err != nil {
		s.server = serverMetadata{} // the endpoint may have moved
		return false, err
	}
	life := unknownLife
	if t.ExpiresIn > 0 {
		life = time.Duration(min(t.ExpiresIn, 3600)) * time.Second
	}
	s.token, s.renew = t.AccessToken, s.cfg.Now().Add(life-min(renewBefore, life/4))
	return true, nil
}

func (s *sender) post(ctx context.Context, m mailbox.Message) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.hook.URL, bytes.NewReader(m.Payload))
	if err != nil {
		return fmt.Errorf("make a request: %w", err)
	}
	topic := keyholder.Topic{Subscription: s.hook.Subscription, Level: m.Level}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Fds-Topic", topic.String())
	req.Header.Set("Keyholder-Message", string(s.hook.Subscription)+"/"+strconv.FormatInt(m.Seq, 10))
	req.Header.Set("User-Agent", "keyholder")
	res, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	// Read a little, so that the connection can be used again.
	_, _ = io.CopyN(io.Discard, res.Body, maxAnswer)
	if res.StatusCode/100 == 2 {
		return nil
	}
	return &statusError{status: res.StatusCode, after: afterHeader(res.Header, s.cfg.Now())}
}

func (s *sender) close() {
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
}

// newClient makes the HTTPS client of one webhook: TLS of the profile, no
// proxy and no redirect, since both would go around the address check.
func newClient(cfg Config, c credential) *http.Client {
	t := cfg.TLS.Config()
	t.RootCAs = c.roots
	if c.certificate != nil {
		t.Certificates = []tls.Certificate{*c.certificate}
	}
	dialer := &net.Dialer{Timeout: connectWithin, KeepAlive: 30 * time.Second, Control: control(cfg.AllowPrivate)}
	return &http.Client{
		Timeout: answerWithin,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: t, TLSHandshakeTimeout: connectWithin, DisableCompression: true,
			MaxIdleConns: 4, MaxConnsPerHost: 2, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		},
	}
}

// statusError is an answer that is not 2xx.
type statusError struct {
	status int
	after  time.Duration // how long the receiver asked to wait
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d", e.status) }

func retryAfter(err error) time.Duration {
	var e *statusError
	if errors.As(err, &e) {
		return e.after
	}
	return 0
}

// afterHeader reads Retry-After (RFC 9110 section 10.2.3), in both its forms.
func afterHeader(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 20); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}

// classOf says in a few words why an attempt failed: for the log and the
// console, with no address and no word of the receiver's in it.
func classOf(err error) string {
	var (
		status  *statusError
		refused *oauth2.RetrieveError
		e       *keyholder.Error
		dns     *net.DNSError
		op      *net.OpError
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		address *url.Error
		issuer  *issuerError
	)
	where := "receiver"
	if errors.Is(err, errIssuer) {
		where = "authorization server"
	}
	switch {
	case errors.Is(err, errCredential):
		return err.Error()
	case errors.Is(err, errAddress) && errors.As(err, &e):
		return where + ": " + e.Detail + "; set webhooks.allow_private if it is yours"
	case errors.As(err, &status) && status.status/100 == 3:
		return "receiver: a redirect, which is not followed"
	case errors.As(err, &status):
		return fmt.Sprintf("receiver: status %d", status.status)
	case errors.As(err, &refused) && refused.Response != nil:
		return fmt.Sprintf("authorization server: no token, status %d", refused.Response.StatusCode)
	case errors.As(err, &dns):
		return where + ": its name is not known"
	case errors.As(err, &verify):
		return where + ": its certificate is not trusted"
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &op) && strings.HasSuffix(op.Op, " error"),
		errors.As(err, &address) && strings.HasPrefix(address.Err.Error(), "tls: "):
		// A TLS alert is an operation "remote error" or "local error".
		return where + ": the TLS handshake failed"
	case errors.As(err, &e) && e.Code == keyholder.Denied:
		return "not permitted"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &address) && address.Timeout():
		return where + ": no answer in time"
	case errors.As(err, &address):
		return where + ": not reached"
	case errors.As(err, &issuer):
		return where + ": " + issuer.what
	case errors.Is(err, errIssuer):
		return where + ": what it answered can not be read"
	}
	return "internal: " + err.Error()
}
