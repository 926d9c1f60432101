#!/usr/bin/python3
"""Serves an MPEG-TS file of H.264 by RTSP in its own pace, from the beginning for every client.

Usage: rtsp_server.py FILE.ts tcp|udp [PORT]

Prints the port when it is ready, on 127.0.0.1 alone, and ends when its standard input does. Needs
GStreamer's RTSP server with its bindings for the system's Python (Debian: apt-get install
python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad); ends with
exit code 77 and a line on standard error where they are missing.
"""

import sys

try:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtsp", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtsp, GstRtspServer
except (ImportError, ValueError) as error:
    print(f"{error}; apt-get install python3-gi gir1.2-gst-rtsp-server-1.0", file=sys.stderr)
    sys.exit(77)


def main():
    Gst.init(None)
    missing = [name for name in ("tsdemux", "h264parse", "rtph264pay")
               if Gst.ElementFactory.find(name) is None]
    if missing:
        print(f"GStreamer has no {', '.join(missing)}; apt-get install gstreamer1.0-plugins-good "
              "gstreamer1.0-plugins-bad", file=sys.stderr)
        sys.exit(77)
    path, transport = sys.argv[1:3]
    factory = GstRtspServer.RTSPMediaFactory()
    # The demultiplexer tells no duration, as a camera does not.
    factory.set_launch(f'( filesrc location="{path}" ! tsdemux ! h264parse ! '
                       "rtph264pay name=pay0 pt=96 config-interval=-1 )")
    protocols = {"tcp": GstRtsp.RTSPLowerTrans.TCP, "udp": GstRtsp.RTSPLowerTrans.UDP}
    factory.set_protocols(protocols[transport])
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[3] if len(sys.argv) > 3 else "0")
    server.get_mount_points().add_factory("/camera", factory)
    if server.attach(None) == 0:
        print("the port cannot be used", file=sys.stderr)
        sys.exit(1)
    print(server.get_bound_port(), flush=True)
    loop = GLib.MainLoop()
    GLib.io_add_watch(GLib.IOChannel.unix_new(0), GLib.PRIORITY_DEFAULT,
                      GLib.IOCondition.IN | GLib.IOCondition.HUP, lambda *_: loop.quit())
    loop.run()


if __name__ == "__main__":
    main()
