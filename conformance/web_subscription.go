package conformance

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	keyholder "github.com/fds-keyholder/keyholder"
)

// webSubscription are the probes of W6 and W7.
func webSubscription() []probe {
	return []probe{
		positive("W6.own", "each consumer's token reads items of its own resource owner", probeOwnData),
		negative("W6.disjoint", "no item is given to both consumers", probeDisjoint),
		negative("W6.ids", "asking for the other consumer's items by ID gives none of them", probeForeignIDs),
		negative("W6.named", "naming the other consumer's subscription in the request gives none of its items", probeNamedSubscription),
		negative("W6.token", "a client gets no token for the other consumer's subscription", probeForeignToken),
		positive("W7.form", "the subscription IDs in target and tokens are canonical UUIDs version 4", probeUUID),
		negative("W7.token", "no token is issued for an ID that is no canonical UUID version 4", probeTokenForm),
		negative("W7.mqtt", "the broker takes no ID that is no canonical UUID version 4", probeMQTTForm),
	}
}

// shared are endpoints whose items may be the same for every owner.
var shared = []string{string(keyholder.EventSpecifications)}

// collected is what one consumer reads from one endpoint.
type collected struct {
	kind  string
	items []item
}

// collect reads every endpoint with a consumer's own token.
func (d *deployment) collect(ctx context.Context, n *notebook, name string, c *consumer) ([]collected, error) {
	offered, err := d.needAPI(ctx, n)
	if err != nil {
		return nil, err
	}
	var all []collected
	answered := false
	for _, kind := range offered {
		a, err := d.readAs(ctx, n, name, c, kind, nil)
		if err != nil {
			return nil, err
		}
		if a.status != http.StatusOK {
			continue
		}
		answered = true
		list, err := a.items(kind)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(shared, kind) {
			all = append(all, collected{kind, list})
		}
	}
	if !answered {
		return nil, wrong("let each consumer's token read its own owner's data", "consumer %s's own token reads no endpoint that consumer A's reads", c.name)
	}
	return all, nil
}

func count(all []collected) int {
	total := 0
	for _, c := range all {
		total += len(c.items)
	}
	return total
}

// needBoth returns what A and B read, at least one item each.
func (d *deployment) needBoth(ctx context.Context, n *notebook) ([]collected, []collected, error) {
	if d.b == nil || d.b.oauth == nil {
		return nil, nil, lacks("consumer_b.oauth, a consumer of another resource owner")
	}
	a, err := d.collect(ctx, n, "a", d.a)
	if err != nil {
		return nil, nil, err
	}
	b, err := d.collect(ctx, n, "b", d.b)
	if err != nil {
		return nil, nil, err
	}
	for name, all := range map[string][]collected{"A": a, "B": b} {
		if count(all) == 0 {
			return nil, nil, fmt.Errorf("consumer %s reads no item at all: two empty answers prove nothing; store an item for each owner first", name)
		}
	}
	return a, b, nil
}

func probeOwnData(ctx context.Context, d *deployment, n *notebook) error {
	a, b, err := d.needBoth(ctx, n)
	if err != nil {
		return err
	}
	n.saw("A reads %d items, B %d", count(a), count(b))
	return nil
}

func probeDisjoint(ctx context.Context, d *deployment, n *notebook) error {
	a, b, err := d.needBoth(ctx, n)
	if err != nil {
		return control(err)
	}
	const todo = "filter every answer by the subscription ID in the token"
	for i := range a {
		ids, texts := map[string]bool{}, map[string]bool{}
		for _, it := range a[i].items {
			texts[it.whole()] = true
			for _, id := range it.ids() {
				ids[id] = true
			}
		}
		for _, other := range b {
			if other.kind != a[i].kind {
				continue
			}
			for _, it := range other.items {
				if texts[it.whole()] {
					return wrong(todo, "%s gives the same item to both consumers", other.kind)
				}
				for _, id := range it.ids() {
					if ids[id] {
						return wrong(todo, "%s gives item %s to both consumers", other.kind, clean(id))
					}
				}
			}
		}
	}
	n.saw("%d items of A and %d of B: none in common", count(a), count(b))
	return nil
}

// foreignOnly returns a finding if the answer to A holds an item of B.
func foreignOnly(a answer, foreign map[string]bool, request string) error {
	if a.status != http.StatusOK {
		return nil
	}
	list, err := a.items(request)
	if err != nil {
		return err
	}
	for _, it := range list {
		for _, id := range it.ids() {
			if foreign[id] {
				return wrong("take the right to an item from the token alone", "%s gives consumer A the item %s of consumer B", request, clean(id))
			}
		}
	}
	return nil
}

func probeForeignIDs(ctx context.Context, d *deployment, n *notebook) error {
	_, b, err := d.needBoth(ctx, n)
	if err != nil {
		return control(err)
	}
	asked := 0
	for _, part := range b {
		foreign := map[string]bool{}
		for _, it := range part.items {
			for _, id := range it.ids() {
				foreign[id] = true
			}
		}
		if len(foreign) == 0 {
			continue
		}
		ids := slices.Sorted(maps.Keys(foreign))
		id := ids[0]
		a, err := d.readAs(ctx, n, "a", d.a, part.kind, url.Values{"ids": {id}})
		if err != nil {
			return err
		}
		if err := foreignOnly(a, foreign, "GET "+part.kind+" with ids"); err != nil {
			return err
		}
		all, err := d.readAs(ctx, n, "a", d.a, part.kind, url.Values{"ids": {strings.Join(ids[:min(20, len(ids))], ",")}})
		if err != nil {
			return err
		}
		if err := foreignOnly(all, foreign, "GET "+part.kind+" with a list of ids"); err != nil {
			return err
		}
		none, err := d.readAs(ctx, n, "a", d.a, part.kind, url.Values{"ids": {strangerID()}})
		if err != nil {
			return err
		}
		if none.status != a.status {
			n.note("%s answers %d for an item of another owner and %d for one that does not exist: the difference tells strangers what exists",
				part.kind, a.status, none.status)
		}
		n.saw("%s: %d", part.kind, a.status)
		asked++
	}
	if asked == 0 {
		return fmt.Errorf("no item of consumer B has an ID to ask for")
	}
	return nil
}

func probeNamedSubscription(ctx context.Context, d *deployment, n *notebook) error {
	_, b, err := d.needBoth(ctx, n)
	if err != nil {
		return control(err)
	}
	t, err := d.tokenOf(ctx, n, "a", d.a)
	if err != nil {
		return control(err)
	}
	for _, part := range b {
		foreign := map[string]bool{}
		for _, it := range part.items {
			for _, id := range it.ids() {
				foreign[id] = true
			}
		}
		query, err := d.readAs(ctx, n, "a", d.a, part.kind, url.Values{"subscription_id": {d.b.subscription}})
		if err != nil {
			return err
		}
		if err := foreignOnly(query, foreign, "GET "+part.kind+" with B's subscription_id as a parameter"); err != nil {
			return err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.endpoint(part.kind, nil), nil)
		if err != nil {
			return fmt.Errorf("form a request: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+t.raw)
		for _, name := range []string{"Subscription-Id", "X-Subscription-Id", "Subscription_id"} {
			request.Header.Set(name, d.b.subscription)
		}
		header, err := d.do(request, d.a.oauth)
		if err != nil {
			return err
		}
		if err := foreignOnly(header, foreign, "GET "+part.kind+" with B's subscription ID in headers"); err != nil {
			return err
		}
		n.saw("%s: %d and %d", part.kind, query.status, header.status)
	}
	return nil
}

func probeForeignToken(ctx context.Context, d *deployment, n *notebook) error {
	c, err := d.needNamed(ctx, n)
	if err != nil {
		return control(err)
	}
	if d.b == nil {
		return lacks("consumer_b, a consumer of another resource owner")
	}
	if d.b.oauth != nil && d.b.oauth.ClientID == c.ClientID {
		return lacks("consumers with two different oauth clients")
	}
	return d.refuseToken(ctx, n, "A's client asks for B's subscription", c, c.clientForm(d.b.subscription))
}

// needNamed returns A's credentials if they name the subscription in a client
// credentials request, after showing that they get a token.
func (d *deployment) needNamed(ctx context.Context, n *notebook) (*credentials, error) {
	c, err := d.needClient(ctx, n)
	if err == nil && (c.Grant != GrantClientCredentials || c.SubscriptionParameter == "") {
		return nil, lacks("consumer_a.oauth with grant client_credentials and a subscription_parameter")
	}
	return c, err
}

func probeUUID(ctx context.Context, d *deployment, n *notebook) error {
	if d.a == nil {
		return lacks("consumer_a")
	}
	const todo = "give every subscription a random UUID version 4 in lower case (RFC 9562)"
	for _, c := range []*consumer{d.a, d.b} {
		if c == nil {
			continue
		}
		if _, err := keyholder.ParseID[keyholder.SubscriptionID](c.subscription); err != nil {
			return wrong(todo, "the subscription ID of consumer %s: %v", c.name, err)
		}
		n.saw("consumer %s: a UUID version 4", c.name)
		if c.oauth == nil {
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
		if d.claimOf(claims, c.subscription) == "" {
			return wrong("put the subscription ID into the token in the same form", "consumer %s's token does not hold that ID", c.name)
		}
		n.saw("the same in its token")
	}
	return nil
}

// misspelt returns forms of a subscription ID that are no canonical UUID
// version 4.
func misspelt(id string) map[string]string {
	forms := map[string]string{
		"braces":     "{" + id + "}",
		"urn":        "urn:uuid:" + id,
		"no hyphens": strings.ReplaceAll(id, "-", ""),
	}
	if upper := strings.ToUpper(id); upper != id {
		forms["upper case"] = upper
	}
	if len(id) == 36 {
		forms["version 1"] = id[:14] + "1" + id[15:]
		forms["variant 0"] = id[:19] + "0" + id[20:]
	}
	return forms
}

func probeTokenForm(ctx context.Context, d *deployment, n *notebook) error {
	c, err := d.needNamed(ctx, n)
	if err != nil {
		return control(err)
	}
	forms := misspelt(d.a.subscription)
	for _, form := range slices.Sorted(maps.Keys(forms)) {
		if err := d.refuseToken(ctx, n, form, c, c.clientForm(forms[form])); err != nil {
			return err
		}
	}
	return nil
}
