/*
 * Netty as a peer.
 *
 * Its idiom, and why it is the cheapest. One event loop that also accepts (the
 * native epoll transport where its library is to be had, else NIO).
 * LengthFieldBasedFrameDecoder, its own framing, hands each frame on as a slice
 * of what was read, without a copy; the handler writes slices as they come and
 * flushes once, in channelReadComplete, so that the answers to what was read
 * together leave in one gathering write. Buffers are pooled and direct, which is
 * Netty's default, and promises are the shared void one. A peer that does not
 * read is not read from either (channelWritabilityChanged).
 *
 * Idle timeout: IdleStateHandler, which stores the time of each read and has a
 * scheduled task a connection that compares.
 *
 * Room and broadcast: writeAndFlush to the others with a retained duplicate each,
 * behind FlushConsolidationHandler, Netty's own way to flush once what comes
 * together.
 *
 * The virtual machine runs with its serial collector, which it would choose on
 * one processor anyway, and is told to give free heap back.
 *
 * Usage: NettyPeer [-work echo|room|broadcast] [-idle MILLISECONDS] PORT. Its
 * manners are those of package control.
 */

import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.ByteBuf;
import io.netty.channel.Channel;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInboundHandlerAdapter;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.ChannelOption;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.epoll.Epoll;
import io.netty.channel.epoll.EpollEventLoopGroup;
import io.netty.channel.epoll.EpollServerSocketChannel;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.LengthFieldBasedFrameDecoder;
import io.netty.handler.flush.FlushConsolidationHandler;
import io.netty.handler.timeout.IdleStateEvent;
import io.netty.handler.timeout.IdleStateHandler;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import sun.misc.Signal;

public final class NettyPeer {
	private static final int HEADER = 4;
	private static final int MAX_FRAME = HEADER + (1 << 20);
	private static final int CONSOLIDATED = 256; // flushes

	private enum Work { ECHO, ROOM, BROADCAST }

	private static Work work = Work.ECHO;
	private static long idleMillis; // 0: connections may be silent for ever
	private static int port;

	private static final AtomicLong open = new AtomicLong();
	private static final AtomicLong closed = new AtomicLong();
	private static final AtomicLong verdicts = new AtomicLong();

	/** Room is a list of members. All of this runs on the one event loop. */
	private static final class Room {
		final List<Guest> members = new ArrayList<>();

		void add(Guest g) {
			g.room = this;
			g.at = members.size();
			members.add(g);
		}

		void remove(Guest g) {
			Guest last = members.remove(members.size() - 1);
			if (last != g) {
				members.set(g.at, last);
				last.at = g.at;
			}
		}
	}

	private static final Map<Integer, Room> rooms = new HashMap<>();
	private static final Room everybody = new Room();

	private static class Echo extends ChannelInboundHandlerAdapter {
		@Override
		public void channelActive(ChannelHandlerContext ctx) {
			open.incrementAndGet();
		}

		@Override
		public void channelInactive(ChannelHandlerContext ctx) {
			open.decrementAndGet();
			closed.incrementAndGet();
		}

		@Override
		public void channelRead(ChannelHandlerContext ctx, Object frame) {
			ctx.write(frame, ctx.voidPromise());
		}

		@Override
		public void channelReadComplete(ChannelHandlerContext ctx) {
			ctx.flush();
		}

		@Override
		public void channelWritabilityChanged(ChannelHandlerContext ctx) {
			ctx.channel().config().setAutoRead(ctx.channel().isWritable());
		}

		@Override
		public void userEventTriggered(ChannelHandlerContext ctx, Object event) {
			if (event instanceof IdleStateEvent) {
				verdicts.incrementAndGet();
				ctx.close();
			}
		}

		@Override
		public void exceptionCaught(ChannelHandlerContext ctx, Throwable cause) {
			ctx.close();
		}
	}

	private static final class Guest extends Echo {
		Room room;
		int at;
		private Channel channel;

		@Override
		public void channelActive(ChannelHandlerContext ctx) {
			super.channelActive(ctx);
			channel = ctx.channel();
			if (work == Work.BROADCAST) {
				everybody.add(this);
			}
		}

		@Override
		public void channelInactive(ChannelHandlerContext ctx) {
			if (room != null) {
				room.remove(this);
			}
			super.channelInactive(ctx);
		}

		@Override
		public void channelRead(ChannelHandlerContext ctx, Object message) {
			ByteBuf frame = (ByteBuf) message;
			int payload = frame.readableBytes() - HEADER;
			if (payload == 0) {
				ctx.write(frame, ctx.voidPromise());
			} else if (room == null) { // the first message names the room
				if (payload != 4) {
					frame.release();
					ctx.close();
					return;
				}
				rooms.computeIfAbsent(frame.getInt(frame.readerIndex() + HEADER), n -> new Room()).add(this);
				ctx.write(frame, ctx.voidPromise());
			} else {
				// From the end, so that one that leaves meanwhile makes nobody miss it.
				List<Guest> members = room.members;
				for (int i = members.size() - 1; i >= 0; i--) {
					Guest to = members.get(i);
					if (to != this || work == Work.BROADCAST) {
						to.channel.writeAndFlush(frame.retainedDuplicate(), to.channel.voidPromise());
					}
				}
				frame.release();
			}
		}
	}

	private static void report() {
		System.gc();
		System.out.println("{\"goroutines\":0,\"open\":" + open + ",\"closed\":" + closed + ",\"verdicts\":" + verdicts + "}");
	}

	private static void options(String[] args) {
		int i = 0;
		for (; i + 1 < args.length; i += 2) {
			switch (args[i]) {
			case "-work":
				work = Work.valueOf(args[i + 1].toUpperCase());
				break;
			case "-idle":
				idleMillis = Long.parseLong(args[i + 1]);
				break;
			default:
				throw new IllegalArgumentException(args[i]);
			}
		}
		port = Integer.parseInt(args[i]);
	}

	public static void main(String[] args) throws Exception {
		try {
			options(args);
		} catch (RuntimeException e) {
			System.err.println("usage: NettyPeer [-work echo|room|broadcast] [-idle MILLISECONDS] PORT");
			System.exit(2);
		}
		Signal.handle(new Signal("USR1"), s -> report());
		Signal.handle(new Signal("TERM"), s -> Runtime.getRuntime().halt(0));
		Signal.handle(new Signal("INT"), s -> Runtime.getRuntime().halt(0));

		boolean epoll = Epoll.isAvailable();
		EventLoopGroup loop = epoll ? new EpollEventLoopGroup(1) : new NioEventLoopGroup(1);
		Channel listener = new ServerBootstrap()
			.group(loop)
			.channel(epoll ? EpollServerSocketChannel.class : NioServerSocketChannel.class)
			.option(ChannelOption.SO_BACKLOG, 4096)
			.childOption(ChannelOption.TCP_NODELAY, true)
			.childHandler(new ChannelInitializer<Channel>() {
				@Override
				protected void initChannel(Channel c) {
					if (idleMillis > 0) {
						c.pipeline().addLast(new IdleStateHandler(idleMillis, 0, 0, TimeUnit.MILLISECONDS));
					}
					if (work != Work.ECHO) {
						c.pipeline().addLast(new FlushConsolidationHandler(CONSOLIDATED, true));
					}
					c.pipeline().addLast(new LengthFieldBasedFrameDecoder(MAX_FRAME, 0, HEADER, 0, 0));
					c.pipeline().addLast(work == Work.ECHO ? new Echo() : new Guest());
				}
			})
			.bind("127.0.0.1", port).sync().channel();
		System.out.println("listening " + ((InetSocketAddress) listener.localAddress()).getPort());
		listener.closeFuture().sync();
	}
}
