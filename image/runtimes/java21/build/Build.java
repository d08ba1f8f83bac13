import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileVisitResult;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.SimpleFileVisitor;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.FileTime;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.time.LocalDateTime;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import java.util.jar.Attributes;
import java.util.jar.JarFile;
import java.util.jar.Manifest;
import java.util.spi.ToolProvider;
import java.util.stream.Stream;
import java.util.zip.CRC32;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;

/**
 * Makes what the image holds of Java, within the image, out of Debian's JDK: the client's jar, a JDK without tools, its trust
 * store, and an archive of classes that a JVM maps at its start. Run by xtask as a source file; the arguments are the JDK and the
 * folder that this file is in. All of it is the same from the same packages and sources: nothing has a time or an order of its own.
 */
class Build {
    private static final Path LANG = Path.of("/var/lang");
    private static final Path LIB = Path.of("/var/runtime/lib");
    private static final Path JAR = LIB.resolve("tinderbox-java.jar");
    private static final Path ARCHIVE = LANG.resolve("lib/server/runtime.jsa");
    private static final Path OPTIONS = Path.of("/var/runtime/java.options");
    private static final Path CERTIFICATES = Path.of("/etc/ssl/certs/ca-certificates.crt");
    private static final List<String> JACKSON = List.of("jackson-annotations", "jackson-core", "jackson-databind");

    /** All that a program can ask of a JDK: no compilers, no debuggers, nothing for a screen. */
    private static final String MODULES = String.join(
            ",", "java.se", "jdk.attach", "jdk.charsets", "jdk.crypto.cryptoki", "jdk.crypto.ec", "jdk.dynalink",
            "jdk.httpserver", "jdk.jfr", "jdk.jsobject", "jdk.localedata", "jdk.management",
            "jdk.management.agent", "jdk.management.jfr", "jdk.naming.dns", "jdk.naming.rmi", "jdk.net",
            "jdk.nio.mapmode", "jdk.random", "jdk.sctp", "jdk.security.auth", "jdk.security.jgss", "jdk.unsupported",
            "jdk.xml.dom", "jdk.zipfs");

    /** Of what the modules bring: what needs a screen. And notices, as of every package. */
    private static final List<String> UNWANTED = List.of(
            "legal", "lib/classlist", "lib/libawt_xawt.so", "lib/libjawt.so", "lib/libsplashscreen.so");

    /** Events of {@link Sample}: one that does what a function does first, and one that ends it. */
    private static final List<String> EVENTS = List.of(
            "{\"name\":\"kindling\",\"count\":2,\"price\":1.5,\"tags\":[\"dry\"],\"more\":{\"a\":[1,true,null,\"x\"]}}",
            "{\"last\":true}");

    private static final FileTime EPOCH = FileTime.fromMillis(0);

    private final Path jdk;
    private final Path sources;
    private final Path work;

    private Build(Path jdk, Path folder) {
        this.jdk = jdk;
        sources = folder.resolve("client");
        work = folder.resolve("work");
    }

    public static void main(String[] arguments) throws Exception {
        Build build = new Build(Path.of(arguments[0]), Path.of(arguments[1]));
        locale();
        build.client();
        build.jdk();
        build.trust();
        build.archive();
    }

    /** The one that LANG names is the one that there is. */
    private static void locale() throws IOException {
        Files.createSymbolicLink(Path.of("/usr/lib/locale/en_US.utf8"), Path.of("C.utf8"));
    }

    private void client() throws Exception {
        Files.createDirectories(LIB);
        for (String name : JACKSON) {
            Path jar = LIB.resolve(name + ".jar");
            Files.copy(Path.of("/usr/share/java", name + ".jar"), jar);
            // The archive of classes holds the time of each jar, which in the image is this.
            Files.setLastModifiedTime(jar, EPOCH);
        }
        Path classes = work.resolve("client");
        compile(sources, classes, List.of());
        jar(classes);
        compile(work.resolveSibling("build"), work.resolve("sample"), List.of("Build.java"));
    }

    private void compile(Path from, Path to, List<String> without) throws IOException {
        List<String> arguments = new ArrayList<>(List.of("-proc:none", "-XDignore.symbol.file", "-Xlint:all,-serial,-path"));
        arguments.addAll(List.of("-Werror", "-d", to.toString(), "-classpath", classPath()));
        for (Path source : files(from)) {
            if (source.toString().endsWith(".java") && !without.contains(source.getFileName().toString())) {
                arguments.add(source.toString());
            }
        }
        tool("javac", arguments);
    }

    private static String classPath() {
        Stream<String> jackson = JACKSON.stream().map(name -> LIB.resolve(name + ".jar").toString());
        return String.join(":", Stream.concat(Stream.of(JAR.toString()), jackson).toList());
    }

    private static void tool(String name, List<String> arguments) {
        int status = ToolProvider.findFirst(name).orElseThrow().run(System.out, System.err, arguments.toArray(String[]::new));
        if (status != 0) {
            throw new IllegalStateException(name + " ended with " + status);
        }
    }

    /** Stored, so that a file of classes is the same chunks when its neighbours change. */
    private static void jar(Path classes) throws IOException {
        try (ZipOutputStream jar = new ZipOutputStream(Files.newOutputStream(JAR))) {
            jar.setMethod(ZipOutputStream.STORED);
            add(jar, JarFile.MANIFEST_NAME, manifest());
            for (Path file : files(classes)) {
                add(jar, classes.relativize(file).toString(), Files.readAllBytes(file));
            }
        }
        Files.setLastModifiedTime(JAR, EPOCH);
    }

    private static void add(ZipOutputStream jar, String name, byte[] content) throws IOException {
        CRC32 checksum = new CRC32();
        checksum.update(content);
        ZipEntry entry = new ZipEntry(name);
        entry.setTimeLocal(LocalDateTime.of(1980, 1, 1, 0, 0));
        entry.setSize(content.length);
        entry.setCrc(checksum.getValue());
        jar.putNextEntry(entry);
        jar.write(content);
        jar.closeEntry();
    }

    /** Packages are opened here: a JVM whose arguments open any does not map the modules that its archive has. */
    private static byte[] manifest() throws IOException {
        Manifest manifest = new Manifest();
        Attributes main = manifest.getMainAttributes();
        main.put(Attributes.Name.MANIFEST_VERSION, "1.0");
        main.put(Attributes.Name.MAIN_CLASS, "tinderbox.runtime.Main");
        main.put(Attributes.Name.CLASS_PATH, String.join(" ", JACKSON.stream().map(name -> name + ".jar").toList()));
        main.put(new Attributes.Name("Add-Opens"), "java.base/java.net java.base/sun.security.provider");
        ByteArrayOutputStream text = new ByteArrayOutputStream();
        manifest.write(text);
        return text.toByteArray();
    }

    private static List<Path> files(Path folder) throws IOException {
        try (Stream<Path> all = Files.walk(folder)) {
            return all.filter(Files::isRegularFile).sorted().toList();
        }
    }

    private void jdk() throws IOException {
        // Without what debuggers read: a third less, and traces look as AWS's do. And without classes that jlink would make of
        // what its own process has used.
        tool("jlink", List.of("--module-path", jdk.resolve("jmods").toString(), "--add-modules", MODULES,
                "--strip-java-debug-attributes", "--disable-plugin", "generate-jli-classes", "--no-header-files", "--no-man-pages", "--output", LANG.toString()));
        for (Path program : files(LANG.resolve("bin"))) {
            if (!program.endsWith("java")) {
                Files.delete(program);
            }
        }
    }

    /** Without a password, and so without the salts that protect by one. */
    private static void trust() throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        int number = 0;
        try (InputStream bundle = Files.newInputStream(CERTIFICATES)) {
            for (Certificate certificate : CertificateFactory.getInstance("X.509").generateCertificates(bundle)) {
                store.setCertificateEntry(String.format("%03d", number++), certificate);
            }
        }
        Path file = LANG.resolve("lib/security/cacerts");
        Files.deleteIfExists(file);
        try (OutputStream output = Files.newOutputStream(file)) {
            store.store(output, null);
        }
    }

    private void archive() throws Exception {
        Path seen = work.resolve("seen");
        serve(seen);
        // In the order of the JDK's own list, which is fixed, and then of their names: not in that in which threads came.
        TreeSet<String> classes = new TreeSet<>();
        for (String line : Files.readAllLines(seen)) {
            // Comments, and classes that another loader or the process itself made.
            if (!line.startsWith("#") && !line.contains("source:") && !line.contains("/$Proxy")) {
                classes.add(line.replaceFirst(" id: \\d+$", ""));
            }
        }
        List<String> list = new ArrayList<>(Files.readAllLines(LANG.resolve("lib/classlist")));
        list.forEach(classes::remove);
        list.addAll(classes);
        Path wanted = work.resolve("wanted");
        Files.write(wanted, list);
        // G1 lets it have objects, too, whatever collector maps it.
        run(Map.of(), "-Xshare:dump", "-XX:SharedClassListFile=" + wanted, "-XX:SharedArchiveFile=" + ARCHIVE,
                "-XX:+UseG1GC", "-Xmx128m", "-classpath", JAR.toString());
        for (String unwanted : UNWANTED) {
            Path path = LANG.resolve(unwanted);
            if (Files.exists(path)) {
                delete(path);
            }
        }
    }

    private static void delete(Path tree) throws IOException {
        Files.walkFileTree(tree, new SimpleFileVisitor<>() {
            @Override
            public FileVisitResult visitFile(Path file, BasicFileAttributes attributes) throws IOException {
                Files.delete(file);
                return FileVisitResult.CONTINUE;
            }

            @Override
            public FileVisitResult postVisitDirectory(Path folder, IOException error) throws IOException {
                Files.delete(folder);
                return FileVisitResult.CONTINUE;
            }
        });
    }

    /** Runs the sample against a Runtime API that has {@link #EVENTS}; what its JVM loaded is in a file then. */
    private void serve(Path seen) throws Exception {
        try (ServerSocket listener = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            Thread api = new Thread(() -> answer(listener));
            api.setDaemon(true);
            api.start();
            String address = "127.0.0.1:" + listener.getLocalPort();
            Map<String, String> environment = Map.of(
                    "AWS_LAMBDA_RUNTIME_API", address, "_HANDLER", "Sample", "AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start",
                    "LAMBDA_TASK_ROOT", work.resolve("sample").toString(), "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128");
            run(environment, "-XX:DumpLoadedClassList=" + seen, "@" + OPTIONS);
        }
    }

    private static void answer(ServerSocket listener) {
        try (Socket client = listener.accept()) {
            BufferedReader requests = new BufferedReader(
                    new InputStreamReader(client.getInputStream(), StandardCharsets.UTF_8));
            int next = 0;
            for (String line = requests.readLine(); line != null; line = requests.readLine()) {
                String status = "202 Accepted";
                String event = "";
                if (line.startsWith("GET")) {
                    status = "200 OK";
                    event = line.contains("invocation/next") ? EVENTS.get(next++) : "";
                }
                skip(requests);
                String head = "HTTP/1.1 " + status + "\r\nLambda-Runtime-Aws-Request-Id: 1\r\n"
                        + "Lambda-Runtime-Deadline-Ms: 4102444800000\r\nContent-Length: " + event.length() + "\r\n\r\n";
                client.getOutputStream().write((head + event).getBytes(StandardCharsets.UTF_8));
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** The rest of a request. */
    private static void skip(BufferedReader requests) throws IOException {
        int length = 0;
        for (String line = requests.readLine(); !line.isEmpty(); line = requests.readLine()) {
            if (line.startsWith("Content-Length: ")) {
                length = Integer.parseInt(line.substring("Content-Length: ".length()));
            }
        }
        while (length-- > 0) {
            requests.read();
        }
    }

    private static void run(Map<String, String> environment, String... arguments) throws Exception {
        // It leaves nothing of itself in the image's /tmp.
        List<String> command = new ArrayList<>(List.of(LANG.resolve("bin/java").toString(), "-XX:-UsePerfData"));
        command.addAll(List.of(arguments));
        ProcessBuilder builder = new ProcessBuilder(command).inheritIO();
        builder.environment().clear();
        builder.environment().putAll(environment);
        int status = builder.start().waitFor();
        if (status != 0) {
            throw new IllegalStateException(String.join(" ", command) + " ended with " + status);
        }
    }
}
