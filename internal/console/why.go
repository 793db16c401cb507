package console

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// Actions that [Explanation] knows, in the order of help texts.
const (
	ActionRead      = "read"      // an app reads items on the Web API with a token
	ActionIssue     = "issue"     // the authorization server issues a token to the app
	ActionConnect   = "connect"   // the app connects to the broker
	ActionSubscribe = "subscribe" // the app subscribes to topics
	ActionPublish   = "publish"   // the provider publishes
	ActionDeliver   = "deliver"   // a queued item leaves for the app
	ActionCertify   = "certify"   // the authority issues the app a certificate for the broker
)

// Actions lists the actions that can be explained.
func Actions() []string {
	return []string{ActionRead, ActionIssue, ActionConnect, ActionSubscribe, ActionPublish, ActionDeliver, ActionCertify}
}

// Link is one link of the chain that carries a subscription, in words.
type Link struct {
	What  string `json:"what"` // provider, owner, agreement, consent, app, subscription, certificate, webhook
	ID    string `json:"id"`
	Name  string `json:"name,omitempty"`
	Holds bool   `json:"holds"`
	State string `json:"state"`
}

// Explanation is the verdict on a question, asked of the very function that
// the doors ask, with the chain it rests on.
type Explanation struct {
	Question    string                `json:"question"`
	Allowed     bool                  `json:"allowed"`
	Requirement keyholder.Requirement `json:"requirement"`
	Reason      string                `json:"reason,omitempty"` // on a no
	Chain       []Link                `json:"chain"`
}

// why explains what would be decided now.
func (c *Console) why(_ context.Context, q map[string]string) (Explanation, error) {
	id, err := parseID[keyholder.SubscriptionID]("subscription", q["subscription"])
	if err != nil {
		return Explanation{}, err
	}
	now := c.now()
	s := c.ledger.Standing(id)
	ask := question{console: c, parameters: q, id: id, standing: s, now: now}
	var text string
	var v keyholder.Verdict
	switch action := q["action"]; action {
	case ActionRead:
		text, v, err = ask.read()
	case ActionIssue:
		text, v, err = ask.issue()
	case ActionConnect:
		text, v = ask.connect()
	case ActionSubscribe:
		text, v, err = ask.subscribe()
	case ActionPublish:
		text, v, err = ask.publish()
	case ActionDeliver:
		text, v, err = ask.deliver()
	case ActionCertify:
		text = "may a certificate for the broker be issued for the subscription?"
		v = keyholder.PermitCertify(keyholder.ForSubscription, s, keyholder.Provider{}, keyholder.App{}, now)
	default:
		err = keyholder.Errorf(keyholder.Invalid, "unknown action").WithHint("the actions are %s", strings.Join(Actions(), ", "))
	}
	if err != nil {
		return Explanation{}, err
	}
	return Explanation{Question: text, Allowed: v.Allowed, Requirement: v.Requirement, Reason: v.Reason, Chain: c.chain(s)}, nil
}

// question is one question about a subscription.
type question struct {
	console    *Console
	parameters map[string]string
	id         keyholder.SubscriptionID
	standing   keyholder.Standing
	now        time.Time
}

// kind reads the parameter kind, which stands for statuses if it is absent.
func (q question) kind() (keyholder.Kind, error) {
	switch s := q.parameters["kind"]; s {
	case "":
		return keyholder.Statuses, nil
	case string(keyholder.Tags):
		return keyholder.Tags, nil
	default:
		k, err := keyholder.ParseKind(s)
		return k, inField("kind", err)
	}
}

// certificate returns the one that the parameter cert names, or the newest of
// the subject; the zero value if there is none.
func (q question) certificate(use keyholder.CertificateUse, subject string) keyholder.Certificate {
	if serial, ok := q.parameters["cert"]; ok {
		return q.console.bySerial(serial)
	}
	var newest keyholder.Certificate
	for _, k := range q.console.ledger.ListCertificates() {
		if k.Use == use && k.Subject == subject {
			newest = k
		}
	}
	return newest
}

// named says which certificate a question is about.
func named(k keyholder.Certificate) string {
	if k.Serial == "" {
		return "no certificate on record"
	}
	return "the certificate " + k.Serial
}

func (q question) read() (string, keyholder.Verdict, error) {
	k, err := q.kind()
	if err != nil {
		return "", keyholder.Verdict{}, err
	}
	token := keyholder.Token{ClientID: string(q.standing.Subscription.App), Subscription: q.id,
		Scope: []string{keyholder.ScopeRead}, IssuedAt: q.now, Expires: q.now.Add(time.Minute)}
	if token.ClientID == "" {
		token.ClientID = "unknown" // so that the verdict is on the subscription, not on the token
	}
	v := keyholder.PermitRead(token, keyholder.Proof{}, q.standing, k, q.now)
	return fmt.Sprintf("may the app read %s with an unexpired token of the subscription?", k), v, nil
}

func (q question) issue() (string, keyholder.Verdict, error) {
	app := q.standing.App
	grant := keyholder.GrantType(q.parameters["grant"])
	if grant == "" {
		grant = keyholder.GrantAuthorizationCode
		if len(app.Grants) > 0 {
			grant = app.Grants[0]
		}
	}
	if !slices.Contains([]keyholder.GrantType{keyholder.GrantAuthorizationCode, keyholder.GrantRefreshToken, keyholder.GrantClientCredentials}, grant) {
		return "", keyholder.Verdict{}, keyholder.Errorf(keyholder.Invalid, "grant: unknown grant").
			WithHint("the grants are authorization_code, refresh_token and client_credentials")
	}
	v := keyholder.PermitIssue(keyholder.Issuance{Grant: grant, App: app, Scope: keyholder.ScopeRead, Standing: q.standing}, q.now)
	return fmt.Sprintf("may the app, once authenticated, get a token by %s?", grant), v, nil
}

func (q question) connect() (string, keyholder.Verdict) {
	k := q.certificate(keyholder.ForSubscription, string(q.id))
	clientID, ok := q.parameters["client_id"]
	if !ok {
		clientID = string(q.id)
	}
	peer := q.console.ledger.Peer(k.Thumbprint)
	v := keyholder.PermitConnect(keyholder.Connection{TLSVersion: tls.VersionTLS12, Certificate: peer.Certificate,
		Standing: peer.Standing, Provider: peer.Provider, ClientID: clientID}, q.now)
	return fmt.Sprintf("may a client with %s connect to the broker as %.100q?", named(k), clientID), v
}

func (q question) subscribe() (string, keyholder.Verdict, error) {
	topic := q.parameters["topic"]
	if topic == "" {
		topic = keyholder.Filter{Subscription: q.id, Pattern: "#"}.String()
	}
	f, err := keyholder.ParseFilter(topic)
	if err != nil {
		return "", keyholder.Verdict{}, inField("topic", err)
	}
	k := q.certificate(keyholder.ForSubscription, string(q.id))
	s := q.console.ledger.Standing(keyholder.SubscriptionID(k.Subject))
	return fmt.Sprintf("may a client with %s subscribe to %s?", named(k), f), keyholder.PermitSubscribe(k, f, s, q.now), nil
}

func (q question) publish() (string, keyholder.Verdict, error) {
	topic := q.parameters["topic"]
	if topic == "" {
		k, err := q.kind()
		if err != nil {
			return "", keyholder.Verdict{}, err
		}
		topic = keyholder.Topic{Subscription: q.id, Level: string(k)}.String()
	}
	t, err := keyholder.ParseTopic(topic)
	if err != nil {
		return "", keyholder.Verdict{}, inField("topic", err)
	}
	k := q.certificate(keyholder.ForProvider, string(q.standing.Provider.ID))
	v := keyholder.PermitPublish(k, t, q.console.ledger.Standing(t.Subscription), q.now)
	return fmt.Sprintf("may a client with %s publish to %s?", named(k), t), v, nil
}

func (q question) deliver() (string, keyholder.Verdict, error) {
	k, err := q.kind()
	if err != nil {
		return "", keyholder.Verdict{}, err
	}
	return fmt.Sprintf("may queued %s leave for the app?", k), keyholder.PermitDeliver(q.standing, string(k), q.now), nil
}

// chain puts what carries a subscription into words, from the root of the
// rights on.
func (c *Console) chain(s keyholder.Standing) []Link {
	chain := []Link{}
	if s.Subscription.ID == "" {
		return chain
	}
	now := c.now()
	add := func(what, id, name string, start, end, cut time.Time) {
		l := Link{What: what, ID: id, Name: name}
		l.Holds, l.State = State(start, end, cut, cutWord(what), now)
		chain = append(chain, l)
	}
	none := time.Time{}
	add("provider", string(s.Provider.ID), s.Provider.Name, none, none, s.Provider.Cut)
	owner := c.ledger.Owner(s.Subscription.Owner)
	add("owner", string(owner.ID), owner.Key+", "+owner.Name, none, none, none)
	add("agreement", string(s.Agreement.ID), s.Agreement.Purpose, s.Agreement.Start, s.Agreement.End, s.Agreement.Cut)
	add("app", string(s.App.ID), s.App.Name, none, none, s.App.Cut)
	add("consent", string(s.Consent.ID), scopeInWords(s.Consent.Scope), s.Consent.Given, s.Consent.Expires, s.Consent.Cut)
	add("subscription", string(s.Subscription.ID), "", s.Subscription.Created, none, s.Subscription.Cut)
	for _, k := range c.ledger.ListCertificates() {
		if k.Use == keyholder.ForSubscription && k.Subject == string(s.Subscription.ID) {
			add("certificate", k.Serial, "", k.NotBefore, k.NotAfter, k.Revoked)
		}
	}
	for _, w := range c.ledger.ListWebhooks() {
		if w.Subscription == s.Subscription.ID {
			add("webhook", string(w.ID), w.URL, w.Created, none, w.Ended)
		}
	}
	return chain
}

func scopeInWords(scope []keyholder.Kind) string {
	if len(scope) == 0 {
		return "all kinds of items"
	}
	words := make([]string, len(scope))
	for i, k := range scope {
		words[i] = string(k)
	}
	return strings.Join(words, ", ")
}

func cutWord(what string) string {
	switch what {
	case "certificate":
		return "revoked"
	case "webhook":
		return "ended"
	}
	return "cut"
}

// State says whether something that starts, ends or was cut at the given
// times (zero: not) is in force at the time now, and puts it into words. how
// is the word for having been cut.
func State(start, end, cut time.Time, how string, now time.Time) (bool, string) {
	at := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }
	switch {
	case !cut.IsZero():
		return false, how + " " + at(cut)
	case now.Before(start):
		return false, "starts " + at(start)
	case end.IsZero():
		return true, "in force"
	case !now.Before(end):
		return false, "ended " + at(end)
	}
	return true, "in force until " + at(end)
}
