package webapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/guard"
	"github.com/fds-keyholder/keyholder/internal/facility"
	"github.com/fds-keyholder/keyholder/internal/store"
)

// ingested is the answer to an ingestion.
type ingested struct {
	Stored int `json:"stored"` // items that changed what is stored
	Pushed int `json:"pushed"` // messages put into mailboxes
	// Full lists subscriptions whose mailbox was full: their app reads the
	// items by pull, but gets no push of them.
	Full []keyholder.SubscriptionID `json:"full,omitempty"`
}

// ingest serves PUT and POST /ingest/v1/owners/{owner}/{kind}: a provider
// stores items of one owner, and they are pushed to the owner's apps. It
// answers 202 once all of it is on disk, and nothing of a bad batch is.
func (a *API) ingest(w *response, r *http.Request, path string) {
	w.route = ingestRoot + "*"
	c, err := a.identify(w, r)
	if err != nil {
		w.refused(err)
		a.guard.Refuse(w, r, err)
		return
	}
	parts := strings.Split(path, "/")
	if len(parts) != 3 || parts[0] != "owners" {
		guard.WriteProblem(w, http.StatusNotFound, string(keyholder.NotFound), "nothing is served at this address",
			"items are stored at "+ingestRoot+"owners/{owner}/{kind}")
		return
	}
	w.route = ingestRoot + "owners/{owner}/{kind}"
	if r.Method != http.MethodPut && r.Method != http.MethodPost {
		w.Header().Set("Allow", "PUT, POST")
		guard.WriteProblem(w, http.StatusMethodNotAllowed, string(keyholder.Invalid), "the method is not supported here", "use PUT or POST")
		return
	}
	owner := a.ownerNamed(parts[1])
	if err := a.permitIngest(c, owner); err != nil {
		w.refused(err)
		guard.WriteError(w, err, "")
		return
	}
	kind, err := keyholder.ParseKind(parts[2])
	if err != nil {
		var e *keyholder.Error
		errors.As(err, &e)
		guard.WriteProblem(w, http.StatusNotFound, string(keyholder.NotFound), e.Detail, e.Hint)
		return
	}
	w.route = ingestRoot + "owners/{owner}/" + string(kind)
	batch, err := readBatch(w, r, kind)
	if err != nil {
		a.failIngest(w, r, err)
		return
	}
	done, err := a.store(r, c, owner, batch)
	if err != nil {
		a.fail(w, r, err)
		return
	}
	if len(done.Full) > 0 {
		a.log.Warn("mailboxes are full", "provider", c.token.ClientID, "subscriptions", len(done.Full))
	}
	answer, err := json.Marshal(done)
	if err != nil {
		a.fail(w, r, fmt.Errorf("write the answer: %w", err))
		return
	}
	writeJSON(w, http.StatusAccepted, answer)
}

// ownerNamed finds an owner by its ID or its key; the zero owner is none.
func (a *API) ownerNamed(name string) keyholder.OwnerID {
	if id, err := keyholder.ParseID[keyholder.OwnerID](name); err == nil {
		return a.ledger.Owner(id).ID
	}
	return a.ledger.OwnerByKey(name).ID
}

// permitIngest asks whether the caller may store items of an owner now. An
// owner that does not exist and one without an agreement are one answer.
func (a *API) permitIngest(c caller, owner keyholder.OwnerID) error {
	provider := keyholder.ProviderID(c.token.ClientID)
	return keyholder.PermitIngest(c.token, c.proof, a.ledger.Provider(provider), a.ledger.AgreementBetween(provider, owner), a.now()).Err()
}

// readBatch reads and checks the items of a request.
func readBatch(w *response, r *http.Request, kind keyholder.Kind) (facility.Batch, error) {
	if _, err := parseQuery(r.URL.RawQuery); err != nil {
		return facility.Batch{}, err
	}
	body, err := readBody(w, r, facility.MaxBatch, typeJSON, typeNDJSON)
	if err != nil {
		return facility.Batch{}, err
	}
	items, err := body.items()
	if err != nil {
		return facility.Batch{}, err
	}
	return facility.ParseBatch(kind, items)
}

// failIngest answers a bad request with the status it is marked with.
func (a *API) failIngest(w *response, r *http.Request, err error) {
	var known *answered
	var e *keyholder.Error
	if errors.As(err, &known) && errors.As(err, &e) {
		guard.WriteProblem(w, known.status, string(e.Code), e.Detail, e.Hint)
		return
	}
	a.fail(w, r, err)
}

// store writes a batch and its pushes in one durable transaction. Rights are
// asked once more inside it: changes of rights commit alone, so the ledger's
// view is exact there, and nothing is stored or queued after a cut.
func (a *API) store(r *http.Request, c caller, owner keyholder.OwnerID, batch facility.Batch) (ingested, error) {
	provider := keyholder.ProviderID(c.token.ClientID)
	var done ingested
	err := a.ledger.Store().Write(r.Context(), func(tx *store.Tx) error {
		done = ingested{}
		if err := a.permitIngest(c, owner); err != nil {
			return err
		}
		fresh, err := a.facility.PutTx(tx, provider, owner, batch)
		if err != nil {
			return err
		}
		done.Stored = len(fresh)
		if !batch.Kind().Pushed() {
			return nil
		}
		for _, sub := range a.ledger.SubscriptionsBetween(provider, owner) {
			if err := a.push(tx, sub.ID, batch.Kind(), fresh, &done); err != nil {
				return err
			}
		}
		return nil
	})
	return done, err
}

// push queues items for one subscription if its consent covers them. A full
// mailbox holds up neither the provider nor the other apps.
func (a *API) push(tx *store.Tx, sub keyholder.SubscriptionID, kind keyholder.Kind, items []json.RawMessage, done *ingested) error {
	if !keyholder.PermitDeliver(a.ledger.Standing(sub), string(kind), a.now()).Allowed {
		return nil
	}
	for _, item := range items {
		_, err := a.mailbox.AppendTx(tx, sub, string(kind), item, nil)
		switch keyholder.CodeOf(err) {
		case "":
			if err != nil {
				return fmt.Errorf("push: %w", err)
			}
			done.Pushed++
		case keyholder.Unavailable:
			done.Full = append(done.Full, sub)
			return nil
		default:
			return nil // the right ended by time between the two looks
		}
	}
	return nil
}
