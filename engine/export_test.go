package engine

// ListenOn is Listen on a simulated kernel.
func ListenOn(k kernel, cfg Config) (*Server, error) { return listenOn(k, cfg) }

// NewClientOn is NewClient on a simulated kernel.
func NewClientOn(k kernel, cfg ClientConfig) (*Client, error) { return newClientOn(k, cfg) }
