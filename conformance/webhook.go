package conformance

import (
	"context"
	"fmt"
	"net/http"
	"strings"
)

// webhook are the probes of a client application's push endpoint, to which
// the Web API requirements apply (FDS 2.6.4.1). W1 and W2 check its listener
// with the other web servers'.
func webhook() []probe {
	return []probe{
		positive("W5.webhook", "the webhook takes a push with the right token", probePush),
		negative("W5.webhook-none", "the webhook refuses a push without a right token", probePushWithout),
		negative("W6.webhook", "the webhook refuses a push with a token for another subscription", probePushForeign),
	}
}

// push sends a test message with an Authorization header, if it is not empty.
func (d *deployment) push(ctx context.Context, authorization string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.target.Webhook.URL, strings.NewReader(canary()))
	if err != nil {
		return answer{}, fmt.Errorf("form a request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Fds-Topic", d.topic(d.target.Webhook.SubscriptionID))
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	return d.do(request, d.hook)
}

// needPush returns the token for the webhook, after it has worked.
func (d *deployment) needPush(ctx context.Context, n *notebook) (*accessToken, error) {
	if d.target.Webhook == nil || d.hook == nil {
		return nil, lacks("webhook with oauth, a push endpoint and the way to a token for it")
	}
	t, err := d.obtain(ctx, n, d.hookIssuer(), d.hook, d.target.Webhook.SubscriptionID)
	if err != nil {
		return nil, err
	}
	a, err := d.push(ctx, "Bearer "+t.raw)
	if err != nil {
		return nil, err
	}
	if a.status < 200 || a.status > 299 {
		return nil, wrong("take a push whose token is for pushing and names the subscription", "the webhook answers %d to the right token", a.status)
	}
	n.saw("a push with the right token: %d", a.status)
	return t, nil
}

func (d *deployment) hookIssuer() string {
	if d.target.Webhook.Issuer != "" {
		return d.target.Webhook.Issuer
	}
	return d.target.Issuer
}

func probePush(ctx context.Context, d *deployment, n *notebook) error {
	_, err := d.needPush(ctx, n)
	return err
}

// refusePush sends a push that must be refused.
func (d *deployment) refusePush(ctx context.Context, n *notebook, what, authorization string) error {
	a, err := d.push(ctx, authorization)
	if err != nil {
		return err
	}
	if a.status != http.StatusUnauthorized && a.status != http.StatusForbidden {
		return wrong("answer 401 and drop the message", "the webhook answers %d to a push with %s", a.status, what)
	}
	n.saw("%s: %d", what, a.status)
	return nil
}

func probePushWithout(ctx context.Context, d *deployment, n *notebook) error {
	t, err := d.needPush(ctx, n)
	if err != nil {
		return control(err)
	}
	refused := [][2]string{{"no token", ""}, {"a token that is none", "Bearer x"}}
	changed, err := t.tampered(func(c map[string]any) { c["jti"] = "x" })
	if err != nil {
		return err
	}
	refused = append(refused, [2]string{"a tampered token", "Bearer " + changed})
	if t.claims != nil {
		none, err := unsigned(map[string]any{"alg": "none", "typ": t.header["typ"]}, t.claims)
		if err != nil {
			return err
		}
		refused = append(refused, [2]string{"an unsigned token", "Bearer " + none})
	}
	for _, r := range refused {
		if err := d.refusePush(ctx, n, r[0], r[1]); err != nil {
			return err
		}
	}
	return nil
}

func probePushForeign(ctx context.Context, d *deployment, n *notebook) error {
	if _, err := d.needPush(ctx, n); err != nil {
		return control(err)
	}
	other := d.b
	if other != nil && other.subscription == d.target.Webhook.SubscriptionID {
		other = d.a
	}
	if other == nil || d.hook.Grant != GrantClientCredentials || d.hook.SubscriptionParameter == "" {
		return lacks("webhook.oauth with grant client_credentials and a subscription_parameter, and a second consumer")
	}
	a, err := d.requestToken(ctx, d.hookIssuer(), d.hook, d.hook.clientForm(other.subscription))
	if err != nil {
		return control(err)
	}
	if a.Token == "" {
		return lacks("a second subscription that webhook.oauth may push to: the authorization server answers %s", a)
	}
	return d.refusePush(ctx, n, "a token for another subscription", "Bearer "+a.Token)
}
