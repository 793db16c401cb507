package conformance

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	keyholder "github.com/fds-keyholder/keyholder"
)

// webAccess are the probes of W5 and W8.
func webAccess() []probe {
	return []probe{
		positive("W5.right", "the right token reads a JSON array from every endpoint offered", probeRightToken),
		negative("W5.none", "every endpoint refuses requests without a token and gives no data", probeNoToken),
		negative("W5.malformed", "every endpoint refuses malformed tokens", probeMalformed),
		negative("W5.expired", "the Web API refuses an expired token", probeExpired),
		positive("W8.claim", "the token holds the consumer's subscription ID and no other", probeClaim),
		negative("W8.tampered", "the Web API refuses a token whose subscription ID was changed or taken out", probeTampered),
	}
}

func probeRightToken(ctx context.Context, d *deployment, n *notebook) error {
	offered, err := d.needAPI(ctx, n)
	if err != nil {
		return err
	}
	for _, kind := range offered {
		a, err := d.readAs(ctx, n, "a", d.a, kind, nil)
		if err != nil {
			return err
		}
		if a.status != http.StatusOK {
			return wrong("answer the same request in the same way", "%s answers %d to a token that it took before", kind, a.status)
		}
		list, err := a.items(kind)
		if err != nil {
			return err
		}
		n.saw("%s: %d items", kind, len(list))
	}
	for _, kind := range d.endpoints() {
		if !slices.Contains(offered, kind) {
			n.note("%s is not offered to consumer A", kind)
		}
	}
	return nil
}

// refuseEverywhere sends a request with the given Authorization header to
// every endpoint. Those that answer the right token must answer 401; the
// others must at least give nothing.
func (d *deployment) refuseEverywhere(ctx context.Context, n *notebook, what, authorization string) error {
	offered, err := d.needAPI(ctx, n)
	if err != nil {
		return control(err)
	}
	kinds := append(slices.Clone(d.endpoints()), string(keyholder.Tags))
	for _, kind := range kinds {
		a, err := d.get(ctx, d.endpoint(kind, nil), authorization, d.a.oauth)
		if err != nil {
			return err
		}
		if slices.Contains(offered, kind) {
			if err := unauthorized(a, fmt.Sprintf("GET %s %s", kind, what)); err != nil {
				return err
			}
		} else if a.status < 400 {
			return wrong("refuse the request with 401", "GET %s %s is answered with %d", kind, what, a.status)
		}
	}
	n.saw("%d endpoints %s: refused", len(kinds), what)
	return nil
}

func probeNoToken(ctx context.Context, d *deployment, n *notebook) error {
	if err := d.refuseEverywhere(ctx, n, "without a token", ""); err != nil {
		return err
	}
	// Tags are the only thing that FDS lets a consumer write.
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.endpoint(string(keyholder.Tags), nil), strings.NewReader("{}"))
	if err != nil {
		return fmt.Errorf("form a request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	a, err := d.do(request, nil)
	if err != nil {
		return err
	}
	if a.status < 400 {
		return wrong("refuse writing without a token", "POST tag without a token is answered with %d", a.status)
	}
	n.saw("POST tag without a token: %d", a.status)
	return nil
}

func probeMalformed(ctx context.Context, d *deployment, n *notebook) error {
	t, err := d.tokenOf(ctx, n, "a", d.a)
	if err != nil {
		return control(err)
	}
	cut := t.raw[:len(t.raw)-min(8, len(t.raw)/2)]
	for _, m := range []struct{ what, authorization string }{
		{"with a token that is none", "Bearer x"},
		{"with an empty token", "Bearer "},
		{"with a cut-off token", "Bearer " + cut},
		{"with a user name and password", "Basic a2V5aG9sZGVyOmNoZWNr"},
	} {
		if err := d.refuseEverywhere(ctx, n, m.what, m.authorization); err != nil {
			return err
		}
	}
	return nil
}

func probeExpired(ctx context.Context, d *deployment, n *notebook) error {
	offered, err := d.needAPI(ctx, n)
	if err != nil {
		return control(err)
	}
	if d.expired == "" {
		return lacks("expired_token_file, an access token of consumer A that has expired")
	}
	if t := parseToken(d.expired); !t.expires.IsZero() && d.now().Before(t.expires) {
		return lacks("an expired_token that has expired: the one given has not")
	}
	a, err := d.get(ctx, d.endpoint(offered[0], nil), "Bearer "+d.expired, d.a.oauth)
	if err != nil {
		return err
	}
	if err := unauthorized(a, "an expired token"); err != nil {
		return err
	}
	n.saw("an expired token: 401")
	return nil
}

func probeClaim(ctx context.Context, d *deployment, n *notebook) error {
	checked := 0
	for _, c := range []*consumer{d.a, d.b} {
		if c == nil || c.oauth == nil {
			continue
		}
		t, err := d.tokenOf(ctx, n, strings.ToLower(c.name), c)
		if err != nil {
			return err
		}
		claims, err := d.claimsOf(ctx, n, t)
		if err != nil {
			return err
		}
		name := d.claimOf(claims, c.subscription)
		if name == "" {
			return wrong("put the subscription ID into a claim of the token, or correct subscription_claim in the target",
				"no claim of consumer %s's token has its subscription ID as its value (claims: %s)", c.name, claimNames(claims))
		}
		for _, other := range []*consumer{d.a, d.b} {
			if other != nil && other != c && mentions(claims, other.subscription) {
				return wrong("issue a token for one subscription only", "consumer %s's token also names consumer %s's subscription", c.name, other.name)
			}
		}
		n.saw("consumer %s: claim %s", c.name, clean(name))
		checked++
	}
	if checked == 0 {
		return lacks("consumer_a.oauth, the way to an access token")
	}
	return nil
}

func claimNames(claims map[string]any) string {
	var names []string
	for k := range claims {
		names = append(names, clean(k))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// mentions says whether the text s stands anywhere in a decoded JSON value.
func mentions(v any, s string) bool {
	switch v := v.(type) {
	case string:
		return strings.Contains(strings.ToLower(v), strings.ToLower(s))
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { return mentions(e, s) })
	case map[string]any:
		for _, e := range v {
			if mentions(e, s) {
				return true
			}
		}
	}
	return false
}

func probeTampered(ctx context.Context, d *deployment, n *notebook) error {
	offered, err := d.needAPI(ctx, n)
	if err != nil {
		return control(err)
	}
	t, err := d.tokenOf(ctx, n, "a", d.a)
	if err != nil {
		return control(err)
	}
	name := d.claimOf(t.claims, d.a.subscription)
	if t.claims != nil && name == "" {
		return fmt.Errorf("no claim of consumer A's token holds its subscription ID, so none can be changed")
	}
	other := strangerID()
	if d.b != nil {
		other = d.b.subscription
	}
	changes := map[string]func(map[string]any){
		"a token with another subscription ID":   func(c map[string]any) { c[name] = other },
		"a token with two subscription IDs":      func(c map[string]any) { c[name] = []string{d.a.subscription, other} },
		"a token with its subscription ID taken": func(c map[string]any) { delete(c, name) },
	}
	for _, what := range slices.Sorted(maps.Keys(changes)) {
		raw, err := t.tampered(changes[what])
		if err != nil {
			return err
		}
		a, err := d.get(ctx, d.endpoint(offered[0], nil), "Bearer "+raw, d.a.oauth)
		if err != nil {
			return err
		}
		if err := unauthorized(a, what); err != nil {
			return err
		}
		n.saw("%s: 401", what)
	}
	return nil
}
