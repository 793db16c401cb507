package broker

import "maps"

// flight knows the messages that were sent with QoS 1 and not acknowledged,
// by packet identifier. Its tables are made when they are needed: most
// consumers are idle most of the time.
type flight struct {
	seqs   map[uint16]int64 // under way on this connection
	before map[int64]uint16 // sent on earlier connections of the session, not yet again on this
	taken  map[uint16]bool  // identifiers in before
	last   uint16
}

// newFlight begins with what earlier connections of the session had sent.
func newFlight(before map[int64]uint16) flight {
	f := flight{before: before}
	if len(before) > 0 {
		f.taken = map[uint16]bool{}
	}
	for _, id := range before {
		f.taken[id] = true
	}
	return f
}

// begin gives a message its packet identifier. One that was sent before in
// the session gets its old one and is a repetition (MQTT 5 section 4.4). There
// are far more identifiers than a window and what came before can take.
func (f *flight) begin(seq int64) (id uint16, repeated bool) {
	if f.seqs == nil {
		f.seqs = map[uint16]int64{}
	}
	if id, ok := f.before[seq]; ok {
		delete(f.before, seq)
		delete(f.taken, id)
		f.seqs[id] = seq
		return id, true
	}
	for {
		f.last++
		if _, used := f.seqs[f.last]; f.last != 0 && !used && !f.taken[f.last] {
			f.seqs[f.last] = seq
			return f.last, false
		}
	}
}

// end removes a message and returns its number.
func (f *flight) end(id uint16) (int64, bool) {
	seq, ok := f.seqs[id]
	delete(f.seqs, id)
	return seq, ok
}

// sent lists what a later connection of the session must send again.
func (f *flight) sent() map[int64]uint16 {
	all := maps.Clone(f.before)
	if all == nil {
		all = map[int64]uint16{}
	}
	for id, seq := range f.seqs {
		all[seq] = id
	}
	return all
}
