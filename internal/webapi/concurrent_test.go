package webapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/ledger"
)

// Ensure that concurrent ingestion loses and doubles nothing, in the facility
// and in every mailbox, and that the items of one request stay together and in
// order, while apps read.
func TestConcurrentIngestion(t *testing.T) {
	b := open(t, limits{})
	const writers, requests, items = 6, 10, 5
	stop := make(chan struct{})
	var readers, all sync.WaitGroup
	for range 2 {
		token := b.reader("northgate", 0)
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var list []json.RawMessage
				if a := b.get("/fds/v2/events", token); a.status != http.StatusOK || json.Unmarshal([]byte(a.body), &list) != nil {
					t.Errorf("read: %d", a.status)
					return
				}
			}
		})
	}
	for w := range writers {
		all.Go(func() {
			for r := range requests {
				var batch []string
				for i := range items {
					batch = append(batch, fmt.Sprintf(`{"generic":{"message_code":"m","device_id":"D%d"},"r":%d,"i":%d}`, w, r, i))
				}
				b.put("northgate", keyholder.Events, batch...)
			}
		})
	}
	all.Wait()
	close(stop)
	readers.Wait()
	const n = writers * requests * items
	for app := range b.apps {
		if got := len(array(t, b.get("/fds/v2/events", b.reader("northgate", app)))); got != n {
			t.Errorf("%d events can be pulled, want %d", got, n)
		}
		next := map[string]int{}
		for k, m := range b.drain(b.subs["northgate"][app].ID, n) {
			var e struct {
				Generic struct {
					DeviceID string `json:"device_id"`
				} `json:"generic"`
				R, I int
			}
			if err := json.Unmarshal(m.Payload, &e); err != nil {
				t.Fatal(err)
			}
			if at := e.R*items + e.I; at != next[e.Generic.DeviceID] || e.I != k%items {
				t.Fatalf("message %d is %s", k, m.Payload)
			}
			next[e.Generic.DeviceID]++
		}
	}
}

// Ensure that once a cut has returned, ingestion that goes on queues nothing
// for the ended subscription, and everything for the others.
func TestCutDuringIngestion(t *testing.T) {
	b := open(t, limits{})
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		sent := 0
		for {
			select {
			case <-stop:
				done <- sent
				return
			default:
				b.put("northgate", keyholder.Statuses, `{"device_id":"D","generic":{}}`, `{"device_id":"E","generic":{}}`)
				sent += 2
			}
		}
	}()
	ctx := context.Background()
	ended, live := b.subs["northgate"][0].ID, b.subs["northgate"][1].ID
	depth := func(sub keyholder.SubscriptionID) int64 { return must(b.mailbox.Depths(ctx))[sub].Messages }
	eventually(t, func() bool { return depth(ended) > 20 })
	if _, err := b.ledger.Cut(ctx, ledger.Administrator, keyholder.Target{Kind: keyholder.CutSubscription, ID: string(ended)}, "test"); err != nil {
		t.Fatal(err)
	}
	before := depth(live)
	if n := depth(ended); n != 0 {
		t.Errorf("%d messages are queued when the cut has returned", n)
	}
	eventually(t, func() bool { return depth(live) > before+20 })
	close(stop)
	sent := <-done
	if n := depth(ended); n != 0 {
		t.Errorf("%d messages were queued after the cut", n)
	}
	if n := depth(live); n != int64(sent) {
		t.Errorf("%d messages are queued for the other app, want %d", n, sent)
	}
}

// Ensure that an unfinished body stores nothing and that the server goes on.
func TestBrokenUpload(t *testing.T) {
	b := open(t, limits{})
	half, send := io.Pipe()
	req := must(http.NewRequest("POST", b.url+"/ingest/v1/owners/northgate/statuses", half))
	req.Header.Set("Authorization", "Bearer "+b.ingester())
	req.Header.Set("Content-Type", "application/x-ndjson")
	go func() {
		_, _ = io.WriteString(send, `{"device_id":"D","generic":{}}`+"\n") // an error ends the request too
		_ = send.CloseWithError(errors.New("the line is cut"))
	}()
	if res, err := b.client.Do(req); err == nil {
		res.Body.Close()
		if res.StatusCode == http.StatusAccepted {
			t.Error("an unfinished body was taken")
		}
	}
	if a := b.get("/fds/v2/statuses", b.reader("northgate", 0)); a.body != "[]" {
		t.Errorf("stored: %s", a.body)
	}
}

// Ensure that the access log names each request by its pattern, with client
// and subscription, and holds neither path, query, token nor payload.
func TestAccessLog(t *testing.T) {
	b := open(t, limits{})
	token := b.reader("northgate", 0)
	b.get("/fds/v2/statuses?ids=CANARY", token)
	b.get("/fds/v2/CANARY", token)
	b.do("DELETE", "/fds/v2/tag/00000000-0000-4000-8000-0000CANARY00", token, "", "")
	b.put("northgate", keyholder.Statuses, `{"device_id":"CANARY","generic":{}}`)
	b.do("POST", "/ingest/v1/owners/CANARY/statuses", b.ingester(), "application/json", `{"CANARY":1}`)
	log := b.log.String()
	for _, want := range []string{
		"route=/fds/v2/statuses status=200", "route=/fds/v2/* status=404", "route=/fds/v2/tag/{id} status=400",
		"route=/ingest/v1/owners/{owner}/statuses status=202", "route=/ingest/v1/owners/{owner}/{kind} status=403",
		"subscription=" + string(b.subs["northgate"][0].ID), "client=" + string(b.provider.ID),
	} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log:\n%s", want, log)
		}
	}
	if strings.Contains(log, "CANARY") || strings.Contains(log, token) {
		t.Errorf("the log holds what it must not:\n%s", log)
	}
}
