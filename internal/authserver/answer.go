package authserver

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
)

// answer holds back what the library writes until its outcome is known: the
// library answers before it saves, and some of its answers must be others.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func newAnswer() *answer { return &answer{header: http.Header{}} }

// Header is part of http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader is part of http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write is part of http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

// reset takes back everything but cookies.
func (a *answer) reset() {
	cookies := a.header["Set-Cookie"]
	clear(a.header)
	if cookies != nil {
		a.header["Set-Cookie"] = cookies
	}
	a.status = 0
	a.body.Reset()
}

// send writes the answer to the client, who may be gone.
func (a *answer) send(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.header)
	if a.status == 0 {
		a.status = http.StatusOK
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes())
}

// writeJSON sends v, which must be marshalable.
func writeJSON(w http.ResponseWriter, contentType string, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// writeProblem sends an RFC 9457 problem document.
func writeProblem(w http.ResponseWriter, status int, detail string) {
	writeJSON(w, "application/problem+json", status, map[string]any{
		"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail})
}

// newReference returns an ID under which an internal error is logged; the
// caller is shown nothing else of it.
func newReference() string { return rand.Text()[:10] }

// writeOptions sends the options of a passkey ceremony, or says that there is
// none.
func writeOptions(w http.ResponseWriter, options []byte, err error) {
	if err != nil {
		writeProblem(w, http.StatusForbidden, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(options)
}
