package broker_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/fds-keyholder/keyholder/internal/store/storetest"
)

// publishAll publishes messages and waits for every PUBACK.
func publishAll(r *raw, p party, from, to int) {
	r.t.Helper()
	for i := from; i <= to; i++ {
		r.publish(topic(p, "events"), body(i), 1, uint16(i))
	}
	for i := from; i <= to; i++ {
		if ack := r.expect(packets.Puback); ack.PacketID != uint16(i) || ack.ReasonCode != 0 {
			r.t.Fatalf("PUBACK %d with %#x, want %d", ack.PacketID, ack.ReasonCode, i)
		}
	}
}

func receiveAll(r *raw, from, to int) {
	r.t.Helper()
	for i := from; i <= to; i++ {
		if msg := r.message(); !bytes.Equal(msg.Payload, body(i)) {
			r.t.Fatalf("message %d is %q", i, msg.Payload)
		}
	}
}

// Ensure that a consumer that was away gets everything in order when it
// returns: with a session that lives on it need not subscribe again, after a
// restart of the server too; with a clean one it subscribes and still gets
// what was queued.
func TestAwayAndBack(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t)
		provider := w.provider("p")
		sub := w.subscription(provider, "a")
		consumer := w.join(sub, version, persistent)
		consumer.subscribe(1, topic(sub, "events"), topic(sub, "statuses/#"))
		consumer.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
		consumer.closed()

		publishAll(w.join(provider, version), sub, 1, 100)
		back := w.returns(sub, version)
		receiveAll(back, 1, 50)
		_ = back.conn.Close() // what is on its way is lost
		eventually(t, "the connection is gone", func() bool { return w.broker.Connected() == 1 })

		w.reopen()
		publishAll(w.join(provider, version), sub, 101, 150)
		back = w.returns(sub, version)
		first := number(t, back.message())
		if first > 51 { // acknowledgements still under way are lost with the connection
			t.Fatalf("%d messages are missing", first-51)
		}
		receiveAll(back, first+1, 150)
		back.silent(30 * time.Millisecond)
		back.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
		back.closed()

		publishAll(w.join(provider, version), sub, 151, 160)
		clean, ack, err := w.connect(sub, version)
		if err != nil || ack.SessionPresent {
			t.Fatalf("a clean start has a session, err %v", err)
		}
		clean.silent(30 * time.Millisecond)
		clean.subscribe(1, topic(sub, "#"))
		receiveAll(clean, 151, 160)
		_ = clean.conn.Close()
		eventually(t, "the connection is gone", func() bool { return w.broker.Connected() == 1 })
		if _, ack, err = w.connect(sub, version, persistent); err != nil || ack.SessionPresent {
			t.Errorf("the clean session left something behind, err %v", err)
		}
	})
}

// returns connects to a session that lives on.
func (w *world) returns(p party, version byte) *raw {
	w.t.Helper()
	r, ack, err := w.connect(p, version, persistent)
	if err != nil || ack.ReasonCode != 0 || !ack.SessionPresent {
		w.t.Fatalf("return: code %#x, session present %v, err %v", ack.ReasonCode, ack.SessionPresent, err)
	}
	return r
}

// Ensure that a session ends when its time is over, also across a restart.
func TestSessionExpires(t *testing.T) {
	w := newWorld(t)
	sub := w.subscription(w.provider("p"), "a")
	short := func(pk *packets.Packet) {
		persistent(pk)
		pk.Properties.SessionExpiryInterval = 1
	}
	leave := func() {
		r := w.join(sub, 5, short)
		r.subscribe(1, topic(sub, "#"))
		_ = r.conn.Close()
		eventually(t, "the connection is gone", func() bool { return w.broker.Connected() == 0 })
	}
	leave()
	if _, ack, err := w.connect(sub, 5, short); err != nil || !ack.SessionPresent {
		t.Fatalf("the session is gone before its time, err %v", err)
	}
	w.reopen()
	gone := time.After(1100 * time.Millisecond)
	<-gone
	if _, ack, err := w.connect(sub, 5, short); err != nil || ack.SessionPresent {
		t.Errorf("the session outlived its time, err %v", err)
	}
}

// Ensure that a QoS 0 publish followed at once by DISCONNECT is stored.
func TestPublishAndLeave(t *testing.T) {
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t)
		provider := w.provider("p")
		sub := w.subscription(provider, "a")
		r := w.join(provider, version)
		for i := 1; i <= 20; i++ {
			r.publish(topic(sub, "events"), body(i), 0, 0)
		}
		r.send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
		r.closed()
		consumer := w.join(sub, version)
		consumer.subscribe(1, topic(sub, "#"))
		receiveAll(consumer, 1, 20)
	})
}

// crashDir and crashDatabase name the folder and the database for the server
// process that is going to be killed.
const (
	crashDir      = "KEYHOLDER_TEST_CRASH_DIR"
	crashDatabase = "KEYHOLDER_TEST_CRASH_DATABASE"
)

// Ensure that a kill -9 of the server in the middle of a publish run loses no
// message that was acknowledged to the provider and keeps their order for the
// consumer; repetitions are allowed.
func TestServerKilled(t *testing.T) {
	if dir := os.Getenv(crashDir); dir != "" {
		serveUntilKilled(t, dir)
		return
	}
	versions(t, func(t *testing.T, version byte) {
		w := newWorld(t)
		provider := w.provider("p")
		sub := w.subscription(provider, "a")
		consumer := w.join(sub, version, persistent)
		consumer.subscribe(1, topic(sub, "#"))
		var got []int // numbers received, over all rounds
		next := 1     // number to publish
		acked := 0    // highest number acknowledged to the provider
		w.close()
		for range 3 {
			server := w.startServer()
			back := w.returns(sub, version)
			publisher := w.join(provider, version)
			for range 100 { // under way at the same time
				publisher.publish(topic(sub, "events"), body(next), 1, uint16(next))
				next++
			}
			for n := 0; n < 150; n++ {
				ack, err := publisher.read()
				if err != nil || ack.ReasonCode != 0 {
					t.Fatalf("PUBACK %#x, err %v", ack.ReasonCode, err)
				}
				acked = int(ack.PacketID)
				publisher.publish(topic(sub, "events"), body(next), 1, uint16(next))
				next++
				if n%3 == 0 {
					got = append(got, number(t, back.message()))
				}
			}
			if err := server.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = server.Wait()
			for { // acknowledgements that were on the wire count
				ack, err := publisher.read()
				if err != nil {
					break
				}
				acked = int(ack.PacketID)
			}
			next = acked + 1 // a provider repeats what was not acknowledged
		}
		w.open()
		back := w.returns(sub, version)
		for len(got) == 0 || got[len(got)-1] < acked {
			got = append(got, number(t, back.message()))
		}
		inOrder(t, got, acked)
	})
}

// inOrder checks that every number up to last was received, and that the
// first receipt of each comes after that of the number before it.
func inOrder(t *testing.T, got []int, last int) {
	t.Helper()
	want := 1
	for _, n := range got {
		switch {
		case n == want:
			want++
		case n > want:
			t.Fatalf("number %d came before %d", n, want)
		}
	}
	if want <= last {
		t.Fatalf("received up to %d, acknowledged up to %d", want-1, last)
	}
	t.Logf("%d acknowledged, %d received with repetitions", last, len(got))
}

func number(t *testing.T, pk packets.Packet) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(string(pk.Payload), `{"n":`), "}"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// startServer runs a broker on the world's folder in a child process.
func (w *world) startServer() *exec.Cmd {
	w.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestServerKilled$")
	cmd.Env = append(os.Environ(), crashDir+"="+w.dir, crashDatabase+"="+w.at.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = cmd.Process.Kill() })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if addr, ok := strings.CutPrefix(lines.Text(), "serving "); ok {
			w.addr = addr
			return cmd
		}
	}
	w.t.Fatal("the server did not start")
	return nil
}

func serveUntilKilled(t *testing.T, dir string) {
	w := &world{t: t, dir: dir, at: storetest.At(os.Getenv(crashDatabase)), addr: "127.0.0.1:0", log: &logbook{}}
	w.open()
	fmt.Printf("serving %s\n", w.addr)
	select {
	case err := <-w.served:
		t.Error(err)
	case <-time.After(time.Minute): // the parent is gone
	}
}
