package engine

// Diagnosis says what has most likely become of a peer, from the reason, from
// what was heard of it, and from what its kernel still acknowledged. It is a
// conclusion, and a network can make it wrong: a firewall may answer for a host.
type Diagnosis uint8

const (
	// Undiagnosed: there is nothing to conclude from, or nothing happened to
	// the peer.
	Undiagnosed Diagnosis = iota
	// HostGone: nothing at all comes back, so the host or the way to it is
	// gone: power, cable, route, or a NAT that forgot.
	HostGone
	// CutOneWay: the peer is heard, but acknowledges nothing: what we send does
	// not get there.
	CutOneWay
	// Hung: the peer's kernel acknowledges, its application says nothing.
	Hung
	// NotReading: the peer's kernel answers, but its application does not read:
	// it talks and never answers, or its buffers are full.
	NotReading
	// Ended: the peer ended its stream in good order.
	Ended
	// Reset: the peer's kernel knows nothing of the connection: its process
	// died or aborted it, or its host was rebooted.
	Reset
	// Refused: a router says that there is no way.
	Refused
	numDiagnoses
)

var diagnosisNames = [numDiagnoses]string{
	"undiagnosed", "host gone", "path cut one way", "application hung", "application not reading",
	"ended by the peer", "reset by the peer", "refused by a router",
}

// String returns the diagnosis in plain words.
func (d Diagnosis) String() string {
	if d < numDiagnoses {
		return diagnosisNames[d]
	}
	return "Diagnosis?"
}

// Diagnosis concludes from the reason and the evidence what has become of the
// peer.
func (e *CloseError) Diagnosis() Diagnosis {
	ev := &e.Evidence
	switch e.Reason {
	case PeerClosed:
		return Ended
	case PeerReset:
		return Reset
	case Unreachable:
		return Refused
	case SlowConsumer:
		if ev.sentAgain() {
			return ev.cut()
		}
		return NotReading
	case KernelTimeout:
		// The kernel has given up on data under way, on a window that stays
		// closed, or on its probes.
		if !ev.sentAgain() && ev.Kernel.windowClosed() {
			return NotReading
		}
		return ev.cut()
	case HeartbeatLost, Idle:
		switch {
		case ev.Unacked < 0 || ev.Missed == 0 && ev.LastWrite >= ev.LastRead:
			return Undiagnosed // unknown, or nothing was sent that could be acknowledged
		case ev.sentAgain():
			return ev.cut()
		case ev.Kernel.windowClosed():
			return NotReading
		case ev.Unacked == 0 || ev.Kernel.LastAck < ev.LastRead:
			return Hung // what is under way was sent just now
		}
		return HostGone
	case Deaf:
		switch {
		case ev.Unacked < 0:
			return Undiagnosed
		case ev.sentAgain():
			return CutOneWay
		}
		return NotReading
	}
	return Undiagnosed
}

// sentAgain reports whether data of ours is under way that the peer's kernel did
// not acknowledge when it had to.
func (ev *Evidence) sentAgain() bool { return ev.Kernel.Retransmits > 0 }

// cut tells which way the path is cut, of a peer whose kernel acknowledges
// nothing: something came from it after the oldest data under way was sent, if
// the peer still gets through to us.
func (ev *Evidence) cut() Diagnosis {
	k := &ev.Kernel
	if k.LastAck+k.RTT < k.Unheeded {
		return CutOneWay
	}
	return HostGone
}

// windowClosed reports whether data waits in our kernel although nothing is
// under way: the peer's kernel is there, and has no room for it.
func (k *KernelView) windowClosed() bool { return k.InFlight == 0 && k.NotSent > 0 }
