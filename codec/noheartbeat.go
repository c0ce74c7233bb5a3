package codec

// NoHeartbeat is for embedding in a Codec whose format has no heartbeat: it
// supplies AppendPing, AppendPong, Beat and Properties, so that Decode, Append
// and PerConn remain to be written. PerConn cannot come from here, because it
// returns the embedding type.
type NoHeartbeat struct{}

// AppendPing returns dst as it is; nobody calls it, because Properties names
// no pinger.
func (NoHeartbeat) AppendPing(dst []byte, _ Beat) []byte { return dst }

// AppendPong returns dst as it is; nobody calls it, because Properties does
// not say Answered.
func (NoHeartbeat) AppendPong(dst, _ []byte) []byte { return dst }

// Beat returns the zero Beat.
func (NoHeartbeat) Beat(Kind, []byte) Beat { return Beat{} }

// Properties returns the zero Properties.
func (NoHeartbeat) Properties() Properties { return Properties{} }
