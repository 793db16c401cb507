package external

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/fds-keyholder/keyholder"
)

// api is the management API of a broker's nodes. Any node answers for all.
type api struct {
	addresses []string
	client    *http.Client
	account   account
}

// newAPI follows no redirect: the secret is for the addresses of the settings
// only.
func newAPI(s Setting, secured *tls.Config, a account) api {
	return api{addresses: s.API, account: a, client: &http.Client{
		Transport:     &http.Transport{TLSClientConfig: secured, MaxIdleConnsPerHost: parallel},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// refresh has nothing to do: the broker asks for every right.
func (api) refresh(context.Context) error { return nil }

// maxAnswer bounds an answer of a management API: a list of 100,000 clients.
const maxAnswer = 32 << 20

// get reads JSON into v; what is not there leaves it unchanged.
func (a api) get(ctx context.Context, path string, v any) error {
	return a.call(ctx, http.MethodGet, path, func(body io.Reader) error { return json.NewDecoder(body).Decode(v) })
}

// remove deletes; what is not there is removed already.
func (a api) remove(ctx context.Context, path string) error {
	return a.call(ctx, http.MethodDelete, path, func(io.Reader) error { return nil })
}

// call asks the nodes one after the other until one answers. The error is that
// of the last one.
func (a api) call(ctx context.Context, method, path string, read func(io.Reader) error) error {
	var err error
	for _, address := range a.addresses {
		if err = a.callNode(ctx, method, address+path, read); err == nil || ctx.Err() != nil {
			break
		}
	}
	return err
}

func (a api) callNode(ctx context.Context, method, url string, read func(io.Reader) error) error {
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return keyholder.Errorf(keyholder.Invalid, "the management API has no such address")
	}
	r.SetBasicAuth(a.account.user, a.account.secret)
	r.Header.Set("X-Reason", "the right has ended")
	resp, err := a.client.Do(r)
	if err != nil {
		detail := "the management API cannot be reached"
		if ctx.Err() != nil {
			detail = "the management API did not answer in time"
		}
		return &keyholder.Error{Code: keyholder.Unavailable, Detail: detail, Err: err}
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, maxAnswer)
	switch resp.StatusCode {
	case http.StatusOK:
		if err := read(body); err != nil {
			return &keyholder.Error{Code: keyholder.Unavailable, Detail: "the answer of the management API cannot be read", Err: err}
		}
		return nil
	case http.StatusNoContent, http.StatusNotFound:
		return nil
	}
	_, _ = io.Copy(io.Discard, body)
	return keyholder.Errorf(keyholder.Unavailable, "the management API answered %d", resp.StatusCode)
}

// parallel is how many clients are ended at the same time.
const parallel = 8

// each runs end for clients, or their connections, side by side and adds up what
// it returns.
func each[T any](clients []T, end func(T) (int, error)) (int, error) {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		total int
		errs  []error
		next  = make(chan T)
	)
	for range min(parallel, len(clients)) {
		wg.Go(func() {
			for client := range next {
				n, err := end(client)
				mu.Lock()
				total += n
				if err != nil {
					errs = append(errs, err)
				}
				mu.Unlock()
			}
		})
	}
	for _, client := range clients {
		next <- client
	}
	close(next)
	wg.Wait()
	return total, errors.Join(errs...)
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
