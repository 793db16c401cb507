package mailbox_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/fds-keyholder/keyholder"
	"github.com/fds-keyholder/keyholder/internal/mailbox"
	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

// crashDatabase names the database for the process that is going to be killed.
const crashDatabase = "KEYHOLDER_TEST_CRASH_DATABASE"

// Ensure that every append that was answered is there, in order and without
// gaps, after the process is killed in the middle of appending.
func TestCrash(t *testing.T) {
	if at := os.Getenv(crashDatabase); at != "" {
		appendUntilKilled(t, at)
		return
	}
	for range 3 {
		b := open(t, mailbox.Config{})
		subs := []keyholder.SubscriptionID{b.subscribe("a"), b.subscribe("b")}
		b.close()
		answered := killAppender(t, b.at.String())
		b.open()
		for _, sub := range subs {
			if answered[sub] == 0 {
				t.Fatalf("the child answered nothing for %s", sub)
			}
			c := b.Consumer(sub, mailbox.MQTT)
			expect(t, c, 1, answered[sub])
			c.Close()
			// At most what was under way may be there beyond that.
			if extra := b.stored("messages", sub) - answered[sub]; extra < 0 || extra > 2 {
				t.Errorf("%d messages more than were answered", extra)
			}
		}
	}
}

// killAppender runs this test as a child that appends, kills it, and returns
// the last number it said was durable for each subscription.
func killAppender(t *testing.T, at string) map[keyholder.SubscriptionID]int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrash$")
	cmd.Env = append(os.Environ(), crashDatabase+"="+at)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	answered := map[keyholder.SubscriptionID]int{}
	lines := bufio.NewScanner(out)
	for total := 0; lines.Scan(); {
		sub, seq, ok := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(seq)
		if !ok || err != nil {
			continue
		}
		if n != answered[keyholder.SubscriptionID(sub)]+1 {
			t.Errorf("the child answered %d after %d", n, answered[keyholder.SubscriptionID(sub)])
		}
		answered[keyholder.SubscriptionID(sub)] = n
		if total++; total == 200 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed
	return answered
}

func appendUntilKilled(t *testing.T, at string) {
	b := &bench{t: t, at: storetest.At(at)}
	b.open()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, s := range b.ledger.ListSubscriptions() {
		wg.Go(func() {
			for i := 1; i < 1_000_000; i++ {
				seq, err := b.Append(context.Background(), s.ID, "events", payload(i))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				fmt.Printf("%s %d\n", s.ID, seq)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}
