package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	keyholder "github.com/fds-keyholder/keyholder"
)

// endpoint returns the address of an FDS endpoint.
func (d *deployment) endpoint(kind string, query url.Values) string {
	address := strings.TrimSuffix(d.target.API, "/") + "/fds/v2/" + kind
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	return address
}

// endpoints returns what the target says is to be checked, or every list of
// FDS version 2.
func (d *deployment) endpoints() []string {
	if len(d.target.Endpoints) > 0 {
		return d.target.Endpoints
	}
	var list []string
	for _, k := range keyholder.Kinds() {
		list = append(list, string(k))
	}
	return list
}

// readAs asks an endpoint with a consumer's own token.
func (d *deployment) readAs(ctx context.Context, n *notebook, name string, c *consumer, kind string, query url.Values) (answer, error) {
	t, err := d.tokenOf(ctx, n, name, c)
	if err != nil {
		return answer{}, err
	}
	return d.get(ctx, d.endpoint(kind, query), "Bearer "+t.raw, c.oauth)
}

// needAPI returns the endpoints that answer A's right token with 200: without
// one, no refusal proves anything.
func (d *deployment) needAPI(ctx context.Context, n *notebook) ([]string, error) {
	if d.target.API == "" {
		return nil, lacks("api, the address of the Web API")
	}
	if d.offered != nil {
		return d.offered, nil
	}
	var offered, seen []string
	for _, kind := range d.endpoints() {
		a, err := d.readAs(ctx, n, "a", d.a, kind, nil)
		if err != nil {
			return nil, err
		}
		if a.status == http.StatusOK {
			offered = append(offered, kind)
		} else {
			seen = append(seen, fmt.Sprintf("%s: %d", kind, a.status))
		}
	}
	if len(offered) == 0 {
		return nil, wrong("let consumer A's token read its own data, or correct api and endpoints in the target",
			"no endpoint answers consumer A's own token with 200 (%s)", strings.Join(seen, ", "))
	}
	d.offered = offered
	return offered, nil
}

// item is one object of an answer.
type item map[string]any

// items returns the list in an answer, and a finding if there is none.
func (a answer) items(kind string) ([]item, error) {
	var list []item
	dec := json.NewDecoder(bytes.NewReader(a.body))
	dec.UseNumber()
	if err := dec.Decode(&list); err != nil || list == nil {
		return nil, wrong("answer with a JSON array of objects", "%s answers 200 with something else than a JSON array of objects", kind)
	}
	return list, nil
}

// ids returns the world-wide unique names in an item: the key is not the same
// for devices, spaces and messages.
func (i item) ids() []string {
	var ids []string
	for _, key := range []string{"id", "device_id", "space_id", "message_id", "event_id"} {
		if s, ok := i[key].(string); ok && s != "" {
			ids = append(ids, s)
		}
	}
	return ids
}

// whole returns the item as one comparable text.
func (i item) whole() string {
	b, err := json.Marshal(i)
	if err != nil {
		return ""
	}
	return string(b)
}

// unauthorized checks the answer that FDS demands for an unauthorized
// request: HTTP 401 and the error object.
func unauthorized(a answer, request string) error {
	const todo = `answer 401 with {"status":401,"message":"unauthorized_request"} and no data`
	if a.status != http.StatusUnauthorized {
		return wrong(todo, "%s is answered with %d", request, a.status)
	}
	var e struct {
		Status  json.Number `json:"status"`
		Message string      `json:"message"`
	}
	if err := json.Unmarshal(a.body, &e); err != nil || e.Status.String() != "401" || e.Message != "unauthorized_request" {
		return wrong(todo, "%s is answered with 401 and not the FDS error object", request)
	}
	return nil
}
