package console

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
)

// base begins every path of the API.
const base = "/admin/v1/"

// action answers one request. What it returns is written as JSON; nil means
// that there is nothing to say.
type action func(w http.ResponseWriter, r *http.Request) (any, error)

// Handler returns the API. It must be served on a socket that only the
// administrator can open; see [Listen].
func (c *Console) Handler() http.Handler {
	mux := http.NewServeMux()
	for path, methods := range c.routes() {
		allow := make([]string, 0, len(methods))
		for method, do := range methods {
			mux.Handle(method+" "+base+path, c.answer(do))
			allow = append(allow, method)
		}
		slices.Sort(allow)
		mux.HandleFunc(base+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Allow", strings.Join(allow, ", "))
			guard.WriteProblem(w, http.StatusMethodNotAllowed, string(keyholder.Invalid), "this path does not know the method", "allowed: "+strings.Join(allow, ", "))
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		guard.WriteProblem(w, http.StatusNotFound, string(keyholder.NotFound), "there is no such path in the admin API", "paths begin with "+base)
	})
	return mux
}

// routes is the whole API.
func (c *Console) routes() map[string]map[string]action {
	type methods = map[string]action
	return map[string]methods{
		"providers":             {"GET": list(c.listProviders), "POST": post(c.addProvider)},
		"providers/{id}":        {"GET": show(c.provider)},
		"owners":                {"GET": list(c.listOwners), "POST": post(c.addOwner)},
		"owners/{id}":           {"GET": show(c.owner)},
		"users":                 {"GET": list(c.listUsers), "POST": post(c.addUser)},
		"users/{id}":            {"GET": show(c.user)},
		"user-bindings":         {"POST": post(c.bindUser)},
		"owner-idps":            {"GET": list(c.listIdentityProviders), "POST": post(c.setIdentityProvider)},
		"owner-idps/{id}":       {"GET": show(c.identityProvider)},
		"owner-idp-removals":    {"POST": post(c.removeIdentityProvider)},
		"user-unlocks":          {"POST": post(c.unlockUser)},
		"user-recoveries":       {"POST": post(c.recoverUser)},
		"user-resets":           {"POST": post(c.resetUser)},
		"user-states":           {"POST": post(c.setUserState)},
		"factor-policies":       {"POST": post(c.setFactorPolicy)},
		"apps":                  {"GET": list(c.listApps), "POST": post(c.addApp)},
		"apps/{id}":             {"GET": show(c.app)},
		"app-keys":              {"POST": post(c.replaceAppKeys)},
		"app-revocation-lists":  {"POST": post(c.replaceAppRevocationLists)},
		"app-certificates":      {"POST": post(c.addAppCertificate)},
		"resource-servers":      {"GET": list(c.listResourceServers), "POST": post(c.addResourceServer)},
		"resource-servers/{id}": {"GET": show(c.resourceServer)},
		"secrets":               {"POST": post(c.addSecret)},
		"agreements":            {"GET": list(c.listAgreements), "POST": post(c.addAgreement)},
		"agreements/{id}":       {"GET": show(c.agreement)},
		"consents":              {"GET": list(c.listConsents)},
		"consents/{id}":         {"GET": show(c.consent)},
		"subscriptions":         {"GET": list(c.listSubscriptions), "POST": post(c.addSubscription)},
		"subscriptions/{id}":    {"GET": show(c.subscription)},
		"authority":             {"GET": list(c.authorityRoot)},
		"keys":                  {"GET": list(c.keys), "POST": post(c.rotateKey)},
		"key-retirements":       {"POST": post(c.retireKey)},
		"certificates":          {"GET": list(c.listCertificates), "POST": post(c.issueCertificate)},
		"certificates/{id}":     {"GET": show(c.certificate)},
		"webhooks":              {"GET": list(c.listWebhooks), "POST": post(c.addWebhook)},
		"webhooks/{id}":         {"GET": show(c.webhook)},
		"cuts":                  {"POST": post(c.cut)},
		"receipts":              {"GET": list(c.listReceipts)},
		"receipts/{id}":         {"GET": show(c.receipt)},
		"audit":                 {"GET": query(c.audit, "after", "limit")},
		"audit/verify":          {"GET": list(c.verifyAudit)},
		"why":                   {"GET": query(c.why, "subscription", "action", "kind", "topic", "cert", "client_id", "grant")},
		"expiring":              {"GET": query(c.expiring, "within")},
	}
}

// list makes an action of a question that takes nothing.
func list[A any](ask func(context.Context) (A, error)) action {
	return query(func(ctx context.Context, _ map[string]string) (A, error) { return ask(ctx) })
}

// show makes an action of a question about one thing, named in the path.
func show[A any](ask func(context.Context, string) (A, error)) action {
	return func(_ http.ResponseWriter, r *http.Request) (any, error) {
		if _, err := parameters(r.URL.RawQuery); err != nil {
			return nil, err
		}
		return ask(r.Context(), r.PathValue("id"))
	}
}

// query makes an action of a question with the named query parameters.
func query[A any](ask func(context.Context, map[string]string) (A, error), names ...string) action {
	return func(_ http.ResponseWriter, r *http.Request) (any, error) {
		values, err := parameters(r.URL.RawQuery, names...)
		if err != nil {
			return nil, err
		}
		return ask(r.Context(), values)
	}
}

// post makes an action of a change that is described by a JSON body.
func post[Q, A any](do func(context.Context, Q) (A, error)) action {
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		if _, err := parameters(r.URL.RawQuery); err != nil {
			return nil, err
		}
		var q Q
		if err := readBody(w, r, &q); err != nil {
			return nil, err
		}
		return do(r.Context(), q)
	}
}

// parameters reads a query string. A parameter that is not among names, or
// stands twice, is an error: it would otherwise be ignored silently.
func parameters(raw string, names ...string) (map[string]string, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, keyholder.Errorf(keyholder.Invalid, "the query string is malformed")
	}
	out := map[string]string{}
	for name, v := range values {
		switch {
		case !slices.Contains(names, name):
			return nil, keyholder.Errorf(keyholder.Invalid, "unknown query parameter %.40q", name).WithHint("%s", known(names))
		case len(v) != 1:
			return nil, keyholder.Errorf(keyholder.Invalid, "the query parameter %s stands more than once", name)
		}
		out[name] = v[0]
	}
	return out, nil
}

func known(names []string) string {
	if len(names) == 0 {
		return "this path takes none"
	}
	return "known here: " + strings.Join(names, ", ")
}

// answer writes what an action returned. An error that is no
// [keyholder.Error] is logged under a reference, and only that is shown.
func (c *Console) answer(do action) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := do(w, r)
		var text []byte
		if err == nil {
			text, err = json.Marshal(body)
		}
		if err != nil {
			reference := ""
			if keyholder.CodeOf(err) == "" {
				reference = rand.Text()[:12]
				c.log.Error("the admin API failed", "method", r.Method, "path", r.Pattern, "reference", reference, "error", err)
			}
			guard.WriteError(w, err, reference)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusCreated)
		}
		// The only error is a client that went away; there is nobody to tell.
		_, _ = w.Write(append(text, '\n'))
	})
}

// parseID reads an identifier out of a request. field names it in the error.
func parseID[T ~string](field, s string) (T, error) {
	id, err := keyholder.ParseID[T](s)
	return id, inField(field, err)
}

// inField says which field of a request an error is about.
func inField(field string, err error) error {
	e, ok := err.(*keyholder.Error)
	if !ok {
		return err
	}
	named := *e
	named.Detail = field + ": " + e.Detail
	return &named
}
