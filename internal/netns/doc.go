// Package netns builds small networks out of Linux network namespaces: one
// router, and around it hosts, each on a link of its own. The router can be made
// to break in the ways that networks break. It needs root, and the commands ip
// (iproute2) and nft (nftables).
//
// A host is a namespace: what runs in it has a TCP stack, addresses and routes
// of its own. Host number i is 10.0.i.2, and its router 10.0.i.1.
package netns
