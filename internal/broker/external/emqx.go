package external

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/fds-keyholder/keyholder"
)

// emqxQuestion is what EMQX 5 asks, in the form that the configuration we
// generate gives to it: all values are texts.
type emqxQuestion struct {
	ClientID   string `json:"clientid"`
	CommonName string `json:"cert_common_name"`
	Username   string `json:"username"`
	Action     string `json:"action"` // publish or subscribe
	Topic      string `json:"topic"`
	Retain     string `json:"retain"`
}

// parseEMQX reads a question. A member that is not known is an error, because
// then the broker is not configured as we think.
func parseEMQX(body []byte) (emqxQuestion, error) {
	var q emqxQuestion
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return emqxQuestion{}, keyholder.Errorf(keyholder.Invalid, "the question is not the JSON object of the generated configuration")
	}
	if _, err := d.Token(); err != io.EOF {
		return emqxQuestion{}, keyholder.Errorf(keyholder.Invalid, "something follows the question")
	}
	return q, nil
}

func (q emqxQuestion) who() claim { return claim{subject: q.CommonName, clientID: q.ClientID} }

func (b *Broker) emqxQuestions() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"authenticate": b.answerEMQX("connect", b.emqxAuthenticate),
		"authorize":    b.answerEMQX("topic", b.emqxAuthorize),
	}
}

// answerEMQX answers with status 200 on a no as well: EMQX takes any error for
// "ask the next".
func (b *Broker) answerEMQX(what string, decide func(emqxQuestion) keyholder.Verdict) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer := `{"result":"deny"}`
		body, err := io.ReadAll(r.Body)
		if err == nil {
			var q emqxQuestion
			if q, err = parseEMQX(body); err == nil {
				if v := decide(q); v.Allowed {
					answer = `{"result":"allow","is_superuser":false}`
				} else {
					b.door.denials.deny(b, what, q.who(), v)
				}
			}
		}
		if err != nil {
			b.door.log.Warn("external broker: a question was not understood", "broker", b.name, "what", what, "error", err)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answer)
	}
}

func (b *Broker) emqxAuthenticate(q emqxQuestion) keyholder.Verdict {
	_, v := b.door.connect(q.who())
	return v
}

func (b *Broker) emqxAuthorize(q emqxQuestion) keyholder.Verdict {
	switch {
	case q.Action == "subscribe":
		return b.door.subscribe(q.who(), q.Topic)
	case q.Action != "publish":
		return refuse(keyholder.M6, "a topic is published or subscribed to")
	case q.Retain == "true":
		return refuse(keyholder.M7, "nothing is retained")
	}
	return b.door.publish(q.who(), q.Topic)
}

// emqx carries ends to EMQX 5 by its REST API. Kicking a client out also
// removes its session.
type emqx struct {
	api
}

func (e *emqx) end(ctx context.Context, clients []string, _ map[string]bool) (int, error) {
	return each(clients, func(id string) (int, error) {
		path := "/api/v5/clients/" + url.PathEscape(id)
		var before struct {
			Connected bool `json:"connected"`
		}
		if err := e.get(ctx, path, &before); err != nil {
			return 0, err
		}
		if err := e.remove(ctx, path); err != nil {
			return 0, err
		}
		if before.Connected {
			return 1, nil
		}
		return 0, nil
	})
}

// emqxPage is how many clients EMQX lists at a time.
const emqxPage = 1000

func (e *emqx) clients(ctx context.Context) (map[string]bool, error) {
	present := map[string]bool{}
	for page := 1; ; page++ {
		var answer struct {
			Data []struct {
				ClientID  string `json:"clientid"`
				Connected bool   `json:"connected"`
			} `json:"data"`
			Meta struct {
				HasNext bool `json:"hasnext"`
			} `json:"meta"`
		}
		if err := e.get(ctx, fmt.Sprintf("/api/v5/clients?limit=%d&page=%d", emqxPage, page), &answer); err != nil {
			return nil, err
		}
		for _, c := range answer.Data {
			present[c.ClientID] = c.Connected
		}
		if !answer.Meta.HasNext {
			return present, nil
		}
	}
}
