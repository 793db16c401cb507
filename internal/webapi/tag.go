package webapi

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/facility"
)

// maxEntitiesBody bounds the list of a tag's entities, in bytes.
const maxEntitiesBody = 512 << 10

// tags serves /fds/v2/tag: POST creates a tag of the token's subscription,
// GET lists them. FDS says no more of a tag than that it has an ID, a generic
// object and entities; see [facility.Facility.CreateTag] for the names.
func (a *API) tags(w *response, r *http.Request, c caller) {
	if !allow(w, r, http.MethodGet, http.MethodHead, http.MethodPost) {
		return
	}
	sub, err := a.permit(c, keyholder.Tags)
	if err != nil {
		a.refuseFDS(w, err)
		return
	}
	if r.Method != http.MethodPost {
		a.listTags(w, r, sub.ID)
		return
	}
	if _, err := parseQuery(r.URL.RawQuery); err != nil {
		a.failFDS(w, badParameter(err))
		return
	}
	body, err := readBody(w, r, facility.MaxTag, typeJSON)
	if err != nil {
		a.failFDS(w, err)
		return
	}
	id, tag, err := a.facility.CreateTag(r.Context(), sub.ID, body.bytes)
	if err != nil {
		a.failFDS(w, err)
		return
	}
	w.Header().Set("Location", fdsRoot+"tag/"+string(id))
	writeJSON(w, http.StatusCreated, tag)
}

func (a *API) listTags(w *response, r *http.Request, sub keyholder.SubscriptionID) {
	texts, err := parseIDs(r.URL.RawQuery)
	if err != nil {
		a.failFDS(w, badParameter(err))
		return
	}
	var ids []facility.TagID
	for _, s := range texts {
		id, err := keyholder.ParseID[facility.TagID](s)
		if err != nil {
			a.failFDS(w, badParameter(err))
			return
		}
		ids = append(ids, id)
	}
	tags, err := a.facility.Tags(r.Context(), sub, ids)
	if err != nil {
		a.failFDS(w, err)
		return
	}
	out := arrayWriter{w: w, now: a.now}
	for _, tag := range tags {
		if err := out.add(tag); err != nil {
			a.finish(w, err)
			return
		}
	}
	a.finish(w, out.end())
}

// tag serves DELETE /fds/v2/tag/{id}. A tag of another subscription and one
// that does not exist get the same answer.
func (a *API) tag(w *response, r *http.Request, c caller, idText string) {
	if !allow(w, r, http.MethodDelete) {
		return
	}
	sub, id, err := a.ownTag(r, c, idText)
	if err != nil {
		a.failFDS(w, err)
		return
	}
	if err := a.facility.DeleteTag(r.Context(), sub.ID, id); err != nil {
		a.failFDS(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// entities serves PUT /fds/v2/tag/{id}/entities: a JSON array of the IDs of
// devices and spaces, in place of those before.
func (a *API) entities(w *response, r *http.Request, c caller, idText string) {
	if !allow(w, r, http.MethodPut) {
		return
	}
	sub, id, err := a.ownTag(r, c, idText)
	if err != nil {
		a.failFDS(w, err)
		return
	}
	body, err := readBody(w, r, maxEntitiesBody, typeJSON)
	if err != nil {
		a.failFDS(w, err)
		return
	}
	list, err := parseEntities(body.bytes)
	if err != nil {
		a.failFDS(w, err)
		return
	}
	if err := a.facility.SetEntities(r.Context(), sub.ID, id, list); err != nil {
		a.failFDS(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// ownTag checks the right to tags, then the query and the ID in the path.
func (a *API) ownTag(r *http.Request, c caller, idText string) (keyholder.Subscription, facility.TagID, error) {
	sub, err := a.permit(c, keyholder.Tags)
	if err != nil {
		return sub, "", err
	}
	if _, err := parseQuery(r.URL.RawQuery); err != nil {
		return sub, "", badParameter(err)
	}
	id, err := keyholder.ParseID[facility.TagID](idText)
	if err != nil {
		return sub, "", badParameter(err)
	}
	return sub, id, nil
}

// parseEntities reads a JSON array of strings.
func parseEntities(body []byte) ([]string, error) {
	bad := keyholder.Errorf(keyholder.Invalid, "the body is not a JSON array of strings").
		WithHint(`for example ["<device ID>", "<space ID>"]`)
	var list []*string
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("[")) || json.Unmarshal(body, &list) != nil {
		return nil, bad
	}
	out := make([]string, 0, len(list))
	for _, s := range list {
		if s == nil { // null
			return nil, bad
		}
		out = append(out, *s)
	}
	return out, nil
}
